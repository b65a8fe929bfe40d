//! Summary of a step as observed by guest and host calls: the guest-visible result.

use tdxlab_journal::Observed;
use tdxlab_plan::names::{Errno, Status, VmcallStatus};
use tdxlab_plan::text::Bytes;
use tdxlab_protocol::message::{Access, Content, Run};

/// One line for each kind of thing that was seen, in the order it first was.
pub(super) fn seen(observed: &[Vec<Observed>]) -> Vec<String> {
    let mut sums = Sums::default();
    for observed in observed.iter().flatten() {
        if let Some(errno) = observed.errno {
            let at = observed.error_at;
            let stopped = at.map_or_else(String::new, |gpa| format!(", stopped at {gpa}"));
            sums.add(format!("errno {}{stopped}", Errno(errno)), None);
        }
        for run in &observed.runs {
            sums.run(run);
        }
        if let Some(death) = &observed.death {
            sums.add(format!("TD ended: {}", death.text), None);
        }
    }
    sums.lines()
}

/// Kinds of things with how many or how much of each.
#[derive(Default)]
struct Sums(Vec<(String, Option<Amount>)>);

#[derive(Clone, Copy)]
enum Amount {
    Times(u64),
    Pages(u64),
}

impl Sums {
    fn add(&mut self, kind: String, amount: Option<Amount>) {
        match (self.0.iter_mut().find(|(known, _)| *known == kind), amount) {
            (Some((_, Some(Amount::Times(sum)))), Some(Amount::Times(more)))
            | (Some((_, Some(Amount::Pages(sum)))), Some(Amount::Pages(more))) => {
                *sum = sum.saturating_add(more);
            }
            (Some(_), _) => {}
            (None, amount) => self.0.push((kind, amount)),
        }
    }

    fn run(&mut self, run: &Run) {
        match run {
            Run::Accept {
                level,
                count,
                status,
                ..
            } => self.times(format!("ACCEPT {level} {}", Status(*status)), *count),
            Run::Access { count, outcome, .. } => {
                let kind = match outcome {
                    Access::Done => "access done".to_owned(),
                    Access::Ve => "access #VE".to_owned(),
                    Access::Accepted => "access #VE, accepted".to_owned(),
                    Access::AcceptFailed { status } => {
                        format!("access #VE, ACCEPT {}", Status(*status))
                    }
                    Access::StrangeVe { .. } => "strange #VE".to_owned(),
                };
                self.times(kind, *count);
            }
            Run::Content { count, content, .. } => {
                let kind = match content {
                    Content::Own(generation) => format!("holds fill {}", generation.get()),
                    Content::Zero => "holds zero".to_owned(),
                    Content::Foreign { .. } => "holds another page's data".to_owned(),
                    Content::Torn { .. } => "torn".to_owned(),
                    Content::NotAccepted => "not accepted".to_owned(),
                };
                self.add(kind, Some(Amount::Pages(u64::from(*count))));
            }
            Run::MapGpa { status, .. } => {
                self.add(format!("MapGPA {}", VmcallStatus(*status)), None);
            }
            Run::Probe {
                count,
                status,
                level,
                pending,
                ..
            } => {
                let state = if *pending { "pending" } else { "accepted" };
                let kind = match status {
                    0 => format!("probe level {level} {state}"),
                    status => format!("probe {}", Status(*status)),
                };
                self.times(kind, *count);
            }
        }
    }

    fn times(&mut self, kind: String, count: u32) {
        self.add(kind, Some(Amount::Times(u64::from(count))));
    }

    fn lines(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|(kind, amount)| match amount {
                None => kind,
                Some(Amount::Times(times)) => format!("{times} x {kind}"),
                Some(Amount::Pages(pages)) => {
                    format!("{} {kind}", Bytes(pages.saturating_mul(4096)))
                }
            })
            .collect()
    }
}
