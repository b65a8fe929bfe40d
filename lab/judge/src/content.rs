//! Content of guest memory, compared page by page with the prediction.

use tdxlab_journal::content::{ContentSpan, PageClass, wanted};
use tdxlab_journal::verdict::{Finding, Judgement, Witness};
use tdxlab_plan::Content;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::{Content as Found, Run};

use super::findings::{Evidence, Findings};
use super::segments::{Aligned, Segment, zip_segments};

/// Compares every page that was read.
pub(super) fn reads(evidence: &Evidence<'_>, findings: &mut Findings) {
    let expected: Vec<Segment<Content>> = evidence
        .expected
        .reads
        .iter()
        .map(|read| pages(read.range.start(), read.range.pages_4k(), read.content))
        .collect();
    let found: Vec<Segment<&Found>> = evidence
        .runs()
        .filter_map(|run| match run {
            Run::Content {
                start,
                count,
                content,
            } => Some(pages(*start, u64::from(*count), content)),
            _ => None,
        })
        .collect();
    let mut spans = Spans::default();
    for meeting in zip_segments(&expected, &found) {
        match meeting {
            Aligned::Both(both) => {
                findings.heard(Witness::Content);
                let (want, have) = both.value;
                match classify(want, have, both.start) {
                    Some(class) => spans.push(both.range(), want, class),
                    None => findings.find(
                        Finding::impossible(
                            Witness::Content,
                            "words that name a page of the guest",
                            format!("{have:?}"),
                        )
                        .at(both.range()),
                    ),
                }
            }
            Aligned::First(_) if evidence.death().is_some() => break,
            Aligned::First(want) => findings.find(
                Finding::impossible(Witness::Content, wanted(want.value), "no answer")
                    .at(want.range()),
            ),
            Aligned::Parted(want, have) => findings.find(
                Finding::impossible(
                    Witness::Content,
                    format!("an answer for {}", want.start),
                    format!("one for {}: {:?}", have.start, have.value),
                )
                .at(have.range()),
            ),
            Aligned::Second(have) => findings.find(
                Finding::impossible(
                    Witness::Content,
                    "nothing more to be read",
                    format!("{:?}", have.value),
                )
                .at(have.range()),
            ),
        }
    }
    spans.close(findings);
}

fn pages<T>(start: Gpa, count: u64, value: T) -> Segment<T> {
    Segment {
        start,
        step: PageLevel::Size4K.bytes(),
        count,
        value,
    }
}

/// `None` where the guest names an owner outside the address space.
fn classify(want: Content, have: &Found, at: Gpa) -> Option<PageClass> {
    Some(match have {
        Found::Own(generation) => {
            let generation = *generation;
            match want {
                Content::Filled(right) if right != generation => PageClass::Stale { generation },
                Content::Filled(_) | Content::Raced => PageClass::Intact { generation },
                Content::Zero | Content::Gone => PageClass::Stale { generation },
            }
        }
        Found::Zero => PageClass::Zero,
        Found::Foreign {
            generation,
            distance,
        } => {
            let owner = i64::try_from(at.gfn()).ok()?.checked_sub(*distance)?;
            let owner = u64::try_from(owner).ok().filter(|gfn| *gfn < 1 << 40)?;
            PageClass::Foreign {
                generation: *generation,
                owner: Gpa::from_gfn(owner).page(PageLevel::Size4K),
            }
        }
        Found::Torn { like_first, words } => PageClass::Torn {
            like_first: *like_first,
            words: words.iter().copied().collect(),
        },
        Found::NotAccepted => PageClass::NotAccepted,
    })
}

fn is_right(want: Content, class: &PageClass) -> bool {
    match want {
        Content::Filled(_) => matches!(class, PageClass::Intact { .. }),
        Content::Zero => matches!(class, PageClass::Zero),
        Content::Gone => matches!(class, PageClass::NotAccepted),
        Content::Raced => matches!(
            class,
            PageClass::Intact { .. } | PageClass::Zero | PageClass::NotAccepted
        ),
    }
}

/// Collects spans, joining neighbours that say the same.
#[derive(Default)]
struct Spans(Vec<ContentSpan>);

impl Spans {
    fn push(&mut self, range: GpaRange, expected: Content, found: PageClass) {
        let found = widen(found, range);
        if let Some(last) = self.0.last_mut()
            && last.range.end() == range.start()
            && last.expected == expected
            && let Some(joined) = join(&last.found, &found)
            && let Some(whole) = GpaRange::new(last.range.start(), range.end())
        {
            last.range = whole;
            last.found = joined;
            return;
        }
        self.0.push(ContentSpan {
            range,
            right: is_right(expected, &found),
            expected,
            found,
        });
    }

    /// Every wrong span is a finding; where there are too many spans, right ones are left out.
    fn close(self, findings: &mut Findings) {
        let mut spans = self.0;
        for span in spans.iter().filter(|span| !span.right) {
            findings.find(
                Finding::wrong(
                    Witness::Content,
                    wanted(span.expected),
                    span.found.to_string(),
                )
                .at(span.range),
            );
        }
        let all = spans.len();
        if all > Judgement::MAX_SPANS {
            spans.sort_by_key(|span| (span.right, span.range));
            spans.truncate(Judgement::MAX_SPANS);
            spans.sort_by_key(|span| span.range);
        }
        findings.spans_omitted += (all - spans.len()) as u64;
        findings.content.append(&mut spans);
    }
}

/// Another page's data in several pages in a row belongs to as many pages in a row.
fn widen(class: PageClass, range: GpaRange) -> PageClass {
    match class {
        PageClass::Foreign { generation, owner } => PageClass::Foreign {
            generation,
            owner: GpaRange::with_len(owner.start(), range.bytes()).unwrap_or(owner),
        },
        other => other,
    }
}

/// Joins two neighbouring spans; `None` if they differ.
fn join(first: &PageClass, second: &PageClass) -> Option<PageClass> {
    match (first, second) {
        (PageClass::Torn { .. }, PageClass::Torn { .. }) => None,
        (
            PageClass::Foreign {
                generation,
                owner: one,
            },
            PageClass::Foreign {
                generation: other,
                owner: two,
            },
        ) => (generation == other && one.end() == two.start())
            .then(|| GpaRange::new(one.start(), two.end()))
            .flatten()
            .map(|owner| PageClass::Foreign {
                generation: *generation,
                owner,
            }),
        (one, two) => (one == two).then(|| one.clone()),
    }
}
