//! Compares the observation of a step with its expectation.

use std::ops::Range;

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_linux::answer::words;
use tdxlab_plan::Generation;
use tdxlab_plan::linux::BufferId;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::linux::{self, MOST_FINDINGS, Outcome};
use tdxlab_protocol::message::Content;

use crate::court::Court;
use crate::model::{Expected, PageState};
use crate::observe::{GuestAccount, Held, Seen};
use crate::{attest, file, plug};

/// RAM that firmware and kernel may reserve: at most this fraction, and this many bytes.
const KEPT: (u64, u64) = (16, 64 << 20);

/// What holds of two ways into a guest, in words.
pub(crate) const SAME_IOMEM: &str = "exactly: qemu-ga reads the same /proc/iomem as the agent";

/// The owner of an address when it was filled.
pub(crate) type Owner<'a> = &'a dyn Fn(Gpa) -> Option<(BufferId, u64)>;

/// Judges a step by what agent and host showed.
pub(crate) fn judge(court: &mut Court, expected: &Expected, seen: &Seen, owner: Owner<'_>) {
    match (expected, seen) {
        (Expected::Guest(guest), Seen::Guest(account)) => {
            court.guest(guest.vcpus, guest.mebibytes << 20, account);
        }
        (
            Expected::Filled { bytes, huge },
            Seen::Filled {
                outcome:
                    Outcome::Filled {
                        bytes: filled,
                        huge: found,
                    },
                pages,
                pieces,
                not_held,
                held_seen,
            },
        ) => {
            court.show(format!(
                "{} KiB in {pieces} pieces, {} MiB of it in 2M pages",
                filled >> 10,
                found >> 20
            ));
            court.equal(Witness::Agent, "bytes", *bytes, *filled);
            court.equal(
                Witness::Agent,
                "pages under it",
                bytes / PageLevel::Size4K.bytes(),
                *pages,
            );
            if let Some(huge) = huge {
                court.equal(Witness::Agent, "bytes in 2M pages", *huge, *found);
            }
            if *held_seen {
                court.hear(Witness::Populated);
            }
            if let Some(range) = not_held {
                let finding =
                    Finding::wrong(Witness::Populated, "memory that the host holds", "none");
                court.find(finding.at(*range));
            }
        }
        (
            Expected::Content { generation, pages },
            Seen::Verified {
                findings,
                wrong,
                moved,
            },
        ) => court.content(*generation, pages, findings, *wrong, *moved, owner),
        (Expected::Hole { count, .. }, Seen::Hole { ranges, held }) => {
            let pages: u64 = ranges.iter().map(|range| range.pages_4k()).sum();
            let text: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            court.show(format!("holes at {}", text.join(", ")));
            court.equal(Witness::Agent, "pages", u64::from(*count), pages);
            court.hear(Witness::Populated);
            for range in held {
                court.find(Finding::wrong(Witness::Populated, "nothing", "memory").at(*range));
            }
        }
        (Expected::Processes(count), Seen::Done(Outcome::Loaded { bytes, failed })) => {
            court.show(format!("{} MiB written by {count} processes", bytes >> 20));
            court.equal(
                Witness::Agent,
                "processes that did not end well",
                0,
                u64::from(*failed),
            );
        }
        (Expected::Attested(wanted), Seen::Attested(seen)) => attest::judge(court, wanted, seen),
        (Expected::Plugged(bytes), Seen::Plugged(seen)) => plug::judge(court, *bytes, seen),
        (Expected::File(wanted), Seen::File(file)) => file::judge(court, wanted, file),
        // Why it ended is told by the host's kernel.
        (Expected::EndedByPlug(_), Seen::Plugged(_)) => {}
        (Expected::Done, Seen::Done(_)) => court.hear(Witness::Agent),
        (Expected::Off, Seen::Off { after, splats }) => {
            court.show(format!("off after {:.1} s", after.as_secs_f64()));
            court.hear(Witness::Agent);
            court.log(Witness::GuestLog, splats);
        }
        (_, Seen::Failed(failure)) => {
            court.find(Finding::wrong(Witness::Agent, "done", words(failure)));
        }
        // Which answer belongs to which request was checked when it came in.
        (expected, seen) => {
            let what = format!("{seen:?} where {expected:?} was to come");
            court.find(Finding::impossible(
                Witness::Agent,
                "what was asked for",
                what,
            ));
        }
    }
}

impl Court {
    fn guest(&mut self, vcpus: u16, bytes: u64, account: &GuestAccount) {
        if let Some(ready) = &account.ready {
            let kernel = f64::from(ready.hello.uptime_ms) / 1000.0;
            let all = ready.after.as_secs_f64();
            self.show(format!(
                "agent ready after {all:.2} s, {kernel:.2} s of it in kernel {}",
                ready.hello.release
            ));
        }
        if let Some(pushed) = &account.pushed {
            self.show(format!(
                "qemu-ga {} brought the agent, {} KiB, in {:.2} s",
                pushed.version,
                pushed.bytes >> 10,
                pushed.took.as_secs_f64()
            ));
        }
        if account.same_iomem == Some(false) {
            self.find(Finding::wrong(
                Witness::Agent,
                "/proc/iomem as qemu-ga reads it",
                "another one",
            ));
        }
        self.equal(
            Witness::Agent,
            "CPUs online",
            u64::from(vcpus),
            u64::from(account.vcpus),
        );
        self.show(format!("{} MiB of RAM by /proc/iomem", account.ram >> 20));
        let least = bytes - (bytes / KEPT.0 + KEPT.1).min(bytes);
        if !(least..=bytes).contains(&account.ram) {
            let expected = format!("{} to {} MiB of RAM", least >> 20, bytes >> 20);
            let found = format!("{} MiB", account.ram >> 20);
            self.find(Finding::wrong(Witness::Agent, expected, found));
        }
        for name in ["MemAvailable", "Unaccepted"] {
            if let Some(bytes) = account.memory.bytes(name) {
                self.show(format!("{name} {} MiB", bytes >> 20));
            }
        }
        if let Some(touched) = &account.touched {
            self.hear(Witness::Populated);
            self.show(held(&touched.ranges));
            self.show(picture(touched));
            let is_of_guest = |range: &GpaRange| touched.memory.offsets(*range).is_some();
            let beyond = touched.ranges.iter().find(|range| !is_of_guest(range));
            if let Some(range) = beyond {
                self.find(
                    Finding::wrong(Witness::Populated, "memory of the guest", "more").at(*range),
                );
            }
        }
        self.log(Witness::GuestLog, &account.splats);
    }

    fn content(
        &mut self,
        generation: Generation,
        pages: &[PageState],
        findings: &[linux::Finding],
        wrong: u32,
        moved: u32,
        owner: Owner<'_>,
    ) {
        self.hear(Witness::Content);
        let mut not_intact = vec![false; pages.len()];
        for finding in findings {
            let range = span(finding);
            let state = pages.get(range.clone()).unwrap_or_default();
            not_intact
                .get_mut(range.clone())
                .unwrap_or_default()
                .fill(true);
            let right = |state: &PageState| match state {
                PageState::Intact => false,
                PageState::Zero => finding.content == Content::Zero,
                PageState::Unknown => true,
            };
            if !state.is_empty() && state.iter().all(right) {
                continue;
            }
            let expected = match state.first() {
                Some(PageState::Zero) => "zero".to_owned(),
                _ => format!("intact (fill {})", generation.get()),
            };
            let at = GpaRange::with_len(
                finding.at,
                u64::from(finding.count) * PageLevel::Size4K.bytes(),
            );
            let found = Finding::wrong(Witness::Content, expected, describe(finding, owner));
            self.find(match at {
                Some(range) => found.at(range),
                None => found,
            });
        }
        let cut = findings.len() == MOST_FINDINGS as usize;
        for page in 0..pages.len() {
            // Where findings were left out, what follows the last one is not known.
            if pages[page] == PageState::Zero && !not_intact[page] && !cut {
                let found = format!("page {page} of the buffer intact");
                self.find(Finding::wrong(Witness::Content, "zero", found));
            }
        }
        self.show(format!(
            "{} of {} pages intact, {moved} moved by Linux since they were filled",
            pages.len().saturating_sub(wrong as usize),
            pages.len()
        ));
    }
}

fn span(finding: &linux::Finding) -> Range<usize> {
    let first = finding.page as usize;
    first..first + finding.count as usize
}

/// Describes the content of a page and its owner.
fn describe(finding: &linux::Finding, owner: Owner<'_>) -> String {
    match &finding.content {
        Content::Own(found) => format!("stale (fill {})", found.get()),
        Content::Zero => "zero".to_owned(),
        Content::Foreign {
            generation,
            distance,
        } => {
            let gfn = finding
                .filled_at
                .gfn()
                .wrapping_add_signed(distance.wrapping_neg());
            let theirs = Gpa::from_gfn(gfn);
            match owner(theirs) {
                Some((buffer, page)) => format!(
                    "data of {theirs}: page {page} of buffer {} (fill {})",
                    buffer.get(),
                    generation.get()
                ),
                None => format!(
                    "data of {theirs}, which is no buffer's (fill {})",
                    generation.get()
                ),
            }
        }
        Content::Torn { like_first, .. } => format!("torn: {like_first} of 512 words alike"),
        Content::NotAccepted => "not accepted".to_owned(),
    }
}

/// Guest memory allocated on the host, by 2M.
fn held(touched: &[GpaRange]) -> String {
    let bytes: u64 = touched.iter().map(|range| range.bytes()).sum();
    let mut blocks = 0;
    let mut next = 0;
    for range in touched {
        let first = (range.start().as_u64() >> 21).max(next);
        let end = (range.end().as_u64() + (1 << 21) - 1) >> 21;
        blocks += end.saturating_sub(first);
        next = next.max(end);
    }
    format!(
        "the host holds {} MiB of it, in {blocks} blocks of 2M",
        bytes >> 20
    )
}

/// Memory from 0 up, without the hole below 4 GiB, one character per 16 MiB: `#` allocated on the host,
/// `+` in part, `.` not at all.
fn picture(touched: &Held) -> String {
    const EACH: u64 = 16 << 20;
    let sign = |number: u64| {
        let parts = touched.memory.addresses(number * EACH, (number + 1) * EACH);
        let held = parts.flat_map(|part| {
            let held = touched.ranges.iter();
            held.filter_map(move |range| range.intersect(part))
        });
        match held.map(|range| range.bytes()).sum::<u64>() {
            0 => '.',
            EACH => '#',
            _ => '+',
        }
    };
    let count = touched.memory.bytes().div_ceil(EACH).min(1024);
    let row: String = (0..count).map(sign).collect();
    format!("by 16 MiB: {row}")
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::Reading;
    use tdxlab_journal::verdict::{Judgement, Verdict};
    use tdxlab_linux::Board;
    use tdxlab_linux::account::MemInfo;
    use tdxlab_linux::memory::Layout;
    use tdxlab_linux::pusher::Pushed;
    use tdxlab_plan::linux::{AgentBy, LinuxGuest};

    use super::*;

    fn finding(page: u32, count: u32, content: Content) -> linux::Finding {
        let gfn = 0x100 + u64::from(page);
        linux::Finding {
            page,
            count,
            at: Gpa::from_gfn(gfn),
            filled_at: Gpa::from_gfn(gfn),
            content,
        }
    }

    fn verdict(pages: &[PageState], findings: Vec<linux::Finding>) -> Judgement {
        let generation = Generation::new(3).unwrap();
        let expected = Expected::Content {
            generation,
            pages: pages.to_vec(),
        };
        let wrong = findings.iter().map(|finding| finding.count).sum();
        let seen = Seen::Verified {
            findings,
            wrong,
            moved: 0,
        };
        let owner = |gpa: Gpa| (gpa.gfn() == 0x40).then(|| (BufferId::new(2).unwrap(), 7));
        let mut court = Court::default();
        judge(&mut court, &expected, &seen, &owner);
        court.finish().0
    }

    #[test]
    fn contents_are_judged_page_by_page() {
        use PageState::{Intact, Unknown, Zero};
        let pass = |pages: &[PageState], findings| {
            assert_eq!(verdict(pages, findings).verdict, Verdict::Pass);
        };
        pass(&[Intact; 3], vec![]);
        pass(&[Intact, Zero, Zero], vec![finding(1, 2, Content::Zero)]);
        pass(&[Intact, Unknown], vec![finding(1, 1, Content::Zero)]);
        pass(&[Intact, Unknown], vec![]);

        let fail = |pages: &[PageState], findings, says: &str| {
            let judgement = verdict(pages, findings);
            assert_eq!(judgement.verdict, Verdict::Fail);
            assert!(
                judgement.findings[0].to_string().contains(says),
                "{:?}",
                judgement.findings
            );
        };
        fail(
            &[Intact; 3],
            vec![finding(1, 1, Content::Zero)],
            "0x101000..0x102000: expected intact (fill 3), found zero",
        );
        fail(&[Intact, Zero], vec![], "page 1 of the buffer intact");
        // A run that is right for its first page only.
        fail(&[Zero, Intact], vec![finding(0, 2, Content::Zero)], "zero");
        let foreign = Content::Foreign {
            generation: Generation::new(1).unwrap(),
            distance: 0xc1,
        };
        fail(
            &[Intact; 3],
            vec![finding(1, 1, foreign)],
            "data of 0x40000: page 7 of buffer 2 (fill 1)",
        );
        let stale = Content::Own(Generation::new(2).unwrap());
        fail(
            &[Intact, Zero],
            vec![finding(1, 1, stale)],
            "stale (fill 2)",
        );
    }

    #[test]
    fn both_ways_into_a_guest_show_the_same() {
        let guest = LinuxGuest {
            mebibytes: 512,
            vcpus: 1,
            append: String::new(),
            agent: AgentBy::QemuGa,
            disk: None,
            quotes: tdxlab_plan::linux::Quotes::None,
        };
        let judged = |same| {
            let account = GuestAccount {
                ready: None,
                vcpus: 1,
                ram: 500 << 20,
                resources: Vec::new(),
                memory: MemInfo::default(),
                splats: Reading::Read(Vec::new()),
                pushed: Some(Pushed {
                    version: "11.1.3".to_owned(),
                    bytes: 2048,
                    took: std::time::Duration::from_secs(1),
                }),
                same_iomem: Some(same),
                touched: None,
            };
            let mut court = Court::default();
            let seen = Seen::Guest(Box::new(account));
            judge(&mut court, &Expected::Guest(guest.clone()), &seen, &|_| {
                None
            });
            court.finish()
        };
        let (judgement, seen) = judged(true);
        assert_eq!(judgement.verdict, Verdict::Pass);
        let brought = "qemu-ga 11.1.3 brought the agent, 2 KiB, in 1.00 s";
        assert!(seen.iter().any(|line| line == brought), "{seen:?}");
        let (judgement, _) = judged(false);
        assert_eq!(judgement.verdict, Verdict::Fail);
        let found = judgement.findings[0].to_string();
        assert!(found.contains("as qemu-ga reads it"), "{found}");
    }

    #[test]
    fn the_picture_has_a_sign_for_every_16_mib() {
        let range = |start: u64, end: u64| {
            GpaRange::new(Gpa::new(start << 20), Gpa::new(end << 20)).unwrap()
        };
        let touched = [range(0, 17), range(18, 20), range(48, 64)];
        let picture = |board, mebibytes, ranges: &[GpaRange]| {
            picture(&Held {
                memory: Layout::of(board, mebibytes),
                ranges: ranges.to_vec(),
            })
        };
        let small = picture(Board::Microvm, 72, &touched);
        assert_eq!(small, "by 16 MiB: #+.#.");
        // 176 signs would be those of what lies below the hole, and of no more.
        let split = picture(Board::Q35, 3072, &[range(4096, 4112)]);
        let signs = split.strip_prefix("by 16 MiB: ").unwrap();
        assert_eq!((signs.len(), signs.find('#')), (192, Some(128)));
        assert_eq!(
            held(&touched),
            "the host holds 35 MiB of it, in 18 blocks of 2M"
        );
    }

    #[test]
    fn a_complaint_and_a_refusal_fail_the_step_and_nothing_heard_is_an_error() {
        let off = |splats: Vec<String>| Seen::Off {
            after: std::time::Duration::ZERO,
            splats: Reading::Read(splats),
        };
        let owner = |_| None;
        let judged = |expected: &Expected, seen: &Seen| {
            let mut court = Court::default();
            judge(&mut court, expected, seen, &owner);
            court.finish().0.verdict
        };
        assert_eq!(judged(&Expected::Off, &off(vec![])), Verdict::Pass);
        assert_eq!(
            judged(&Expected::Off, &off(vec!["WARNING: x".to_owned()])),
            Verdict::Fail
        );
        let failed = linux::Failure {
            doing: "mmap".try_into().unwrap(),
            errno: 12,
        };
        assert_eq!(
            judged(&Expected::Done, &Seen::Failed(failed)),
            Verdict::Fail
        );
        assert_eq!(judged(&Expected::Done, &off(vec![])), Verdict::Error);
        assert_eq!(Court::default().finish().0.verdict, Verdict::Error);
    }
}
