//! What only a TD can show: it is booted, accepts, is punched, and every witness is read.
//!
//! The order is that of a first hour on new hardware: each fact needs those before it.

use std::ops::RangeInclusive;

use tdxlab_protocol::message::{Hello, Run};
use tdxlab_protocol::tdcall::status;

use super::{Fact, Standing};
use crate::addr::{GpaRange, PageLevel};
use crate::host::tdx::{TdxHost, detect};
use crate::host::{HostError, Session};
use crate::plan::{LOW_BASE, Op, Size, VcpuId};
use crate::witness::{PageCounters, Reading, Sample};

/// Where nothing has been touched by the probe for designs: 8 MiB into test memory.
const UNTOUCHED: u64 = 8 << 20;

/// Boots a TD and looks at it. Nothing outlives it.
pub fn deep(host: &TdxHost) -> Vec<Fact> {
    let (mut session, hello) = match host.boot_probe() {
        Ok(booted) => booted,
        Err(error) => return vec![refused("deep.boot", &error)],
    };
    let mut facts = vec![
        Fact::usable(
            "deep.boot",
            "a TD was made, its initial image is what is populated, and it has said hello",
        ),
        introduction(&hello),
    ];
    facts.extend(look(session.as_mut()));
    match session.end() {
        Ok(()) => facts.push(Fact::usable(
            "deep.end",
            "QEMU has ended, and the TD with it",
        )),
        Err(error) => facts.push(refused("deep.end", &error)),
    }
    facts
}

fn refused(name: &str, error: &HostError) -> Fact {
    let fact = Fact::unusable(name, error.to_string());
    match error {
        HostError::NotUsable { advice, .. } | HostError::Qemu { advice, .. } => {
            fact.advise(advice.clone())
        }
        _ => fact,
    }
}

/// What TDG.VP.INFO says.
fn introduction(hello: &Hello) -> Fact {
    let pending = match hello.pending_ve_disabled {
        Some(true) => "a touch before ACCEPT kills",
        Some(false) => "a touch before ACCEPT is a #VE",
        None => "the module does not say what a touch before ACCEPT does",
    };
    Fact::usable(
        "deep.vp_info",
        format!(
            "GPA width {}, attributes {:#x}, {} vCPU; {pending}",
            hello.gpa_width, hello.attributes, hello.vcpus
        ),
    )
}

/// The operations, on a guest as [`detect::guest`] describes it.
fn look(session: &mut dyn Session) -> Vec<Fact> {
    let before = session.sample();
    let mut facts = Vec::new();
    let pages = GpaRange::with_len(LOW_BASE, UNTOUCHED)
        .and_then(|used| GpaRange::with_len(used.end(), 16 * PageLevel::Size4K.bytes()))
        .expect("inside of test memory");
    let steps: [(&str, Op, Wanted); 4] = [
        (
            "deep.accept",
            accept(pages),
            Wanted::Status(status::SUCCESS),
        ),
        (
            "deep.accept_again",
            accept(pages),
            Wanted::Status(status::PAGE_ALREADY_ACCEPTED),
        ),
        ("deep.hole", Op::Punch { range: pages }, Wanted::AnyHole),
        (
            "deep.accept_after_hole",
            accept(pages),
            Wanted::Either(status::SUCCESS, status::PAGE_ALREADY_ACCEPTED),
        ),
    ];
    let mut after = None;
    for (name, op, wanted) in steps {
        let fact = perform(session, name, &op, wanted);
        let failed = fact.standing == Standing::Unusable;
        facts.push(fact);
        if failed {
            return facts;
        }
        after.get_or_insert_with(|| session.sample());
    }
    facts.extend(
        after
            .map(|after| witnesses(&before, &after, pages))
            .into_iter()
            .flatten(),
    );
    facts.push(match detect::probe(session) {
        Ok(found) => {
            let promised = detect::from_parameters(&detect::Parameters::of_machine());
            let fact = format!("a 2M ACCEPT and a hole of 4K look like {found}");
            if promised.agrees_with(found) {
                Fact::usable("deep.design", fact)
            } else {
                Fact::limited(
                    "deep.design",
                    format!("{fact}; module parameters promise {promised}"),
                )
                .advise("name the design with --design, and report what kernel this is")
            }
        }
        Err(error) => refused("deep.design", &error),
    });
    facts
}

fn accept(range: GpaRange) -> Op {
    Op::Accept {
        range,
        size: Size::Size4K,
        vcpu: VcpuId(0),
    }
}

/// What an operation may end with.
#[derive(Clone, Copy)]
enum Wanted {
    /// This status on every page.
    Status(u64),
    /// One of these, since a hole that is refused changes nothing.
    Either(u64, u64),
    /// A hole, or EINVAL where holes are coarse.
    AnyHole,
}

fn perform(session: &mut dyn Session, name: &str, op: &Op, wanted: Wanted) -> Fact {
    let observed = match session.perform(op, &[]) {
        Ok(observed) => observed,
        Err(error) => return refused(name, &error),
    };
    if let Some(death) = observed.death {
        return Fact::unusable(name, format!("the TD died of it: {}", death.text))
            .advise("see dmesg; this is a defect of KVM or of the lab");
    }
    match wanted {
        Wanted::AnyHole => match observed.errno {
            Some(0) => Fact::usable(name, "16 pages were punched out of its guest_memfd"),
            Some(libc::EINVAL) => Fact::usable(name, "holes of 4K are refused (EINVAL)"),
            other => Fact::unusable(name, format!("fallocate said errno {other:?}"))
                .advise("see dmesg; a hole of whole pages cannot fail"),
        },
        Wanted::Status(one) => judged(name, &observed.runs, &[one]),
        Wanted::Either(one, other) => judged(name, &observed.runs, &[one, other]),
    }
}

fn judged(name: &str, runs: &[Run], legal: &[u64]) -> Fact {
    let mut said = Vec::new();
    let mut right = true;
    for run in runs {
        let Run::Accept { status: code, .. } = run else {
            return Fact::unusable(name, format!("the guest answered {run:?} to an ACCEPT"));
        };
        right &= legal.contains(&(code & status::CLASS_MASK));
        said.push(format!("{code:#x}"));
    }
    let said = format!("ACCEPT of 16 pages: status {}", said.join(", "));
    if right {
        Fact::usable(name, said)
    } else {
        Fact::unusable(name, said).advise("see the table of status codes in docs/semantics.md")
    }
}

/// Each witness, before and after 16 pages were accepted.
fn witnesses(before: &Sample, after: &Sample, pages: GpaRange) -> Vec<Fact> {
    let counted = pages.pages_4k();
    let counter = |name: &str, before: &Reading<PageCounters>, after: &Reading<PageCounters>| {
        moved(name, before, after, counted..=counted, |counters| {
            counters.pages_4k
        })
    };
    vec![
        counter("deep.debugfs", &before.debugfs, &after.debugfs),
        counter("deep.query_stats", &before.query_stats, &after.query_stats),
        moved(
            "deep.cachestat",
            &before.populated,
            &after.populated,
            // Where folios are of 2M, the first page brings the others.
            counted..=512,
            |&pages| pages,
        ),
        readable("deep.split_events", &after.splits),
        readable("deep.kernel_log", &after.kernel_log),
    ]
}

fn moved<T>(
    name: &str,
    before: &Reading<T>,
    after: &Reading<T>,
    wanted: RangeInclusive<u64>,
    value: impl Fn(&T) -> u64,
) -> Fact {
    match (before, after) {
        (Reading::Read(before), Reading::Read(after)) => {
            let (before, after) = (value(before), value(after));
            let said = format!("{before} pages, then {after}");
            let more = after.checked_sub(before);
            if more.is_some_and(|more| wanted.contains(&more)) {
                Fact::usable(name, said)
            } else {
                Fact::limited(
                    name,
                    format!("{said}; {} pages were accepted", wanted.start()),
                )
                .advise("scenarios will fail on this; find out what else maps memory")
            }
        }
        (Reading::Missing { reason } | Reading::Spoilt { reason }, _)
        | (_, Reading::Missing { reason } | Reading::Spoilt { reason }) => {
            Fact::limited(name, format!("not readable: {reason}"))
        }
    }
}

fn readable<T>(name: &str, reading: &Reading<T>) -> Fact {
    match reading {
        Reading::Read(_) => Fact::usable(name, "readable"),
        Reading::Missing { reason } | Reading::Spoilt { reason } => {
            Fact::limited(name, format!("not readable: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::host::sim::SimHost;
    use crate::host::{BootOptions, Host};

    /// The same operations on a host whose every design is known.
    #[rstest]
    #[case("stock", "punched out")]
    #[case("v3", "EINVAL")]
    #[case("v5", "EINVAL")]
    #[case("headtail", "punched out")]
    fn every_design_passes(#[case] design: &str, #[case] hole: &str) {
        let folder = tempfile::tempdir().unwrap();
        let options = BootOptions {
            design: design.to_owned(),
            seed: 1,
            folder: folder.path().to_owned(),
            patience: std::time::Duration::from_secs(60),
        };
        let mut session = SimHost::new().boot(&detect::guest(), &options).unwrap();
        let facts = look(session.as_mut());
        for fact in &facts {
            assert_ne!(fact.standing, Standing::Unusable, "{fact:?}");
        }
        let found = |name: &str| {
            let fact = facts.iter().find(|fact| fact.name == name);
            fact.unwrap_or_else(|| panic!("no {name}")).found.clone()
        };
        assert!(found("deep.hole").contains(hole));
        assert!(found("deep.accept_again").contains("0xb0a00000000"));
        assert!(found("deep.debugfs").contains(" pages, then "));
        assert_eq!(
            facts
                .iter()
                .filter(|fact| fact.name == "deep.design")
                .count(),
            1
        );
    }

    #[test]
    fn a_counter_that_stands_still_is_said() {
        let read = Reading::Read;
        let still = moved("x", &read(5), &read(5), 16..=16, |&pages: &u64| pages);
        assert_eq!(still.standing, Standing::Limited);
        let missing = moved(
            "x",
            &read(5),
            &Reading::missing("no rights"),
            16..=16,
            |&pages| pages,
        );
        assert!(missing.found.contains("no rights"));
        let right = moved("x", &read(5), &read(21), 16..=16, |&pages| pages);
        assert_eq!(right.standing, Standing::Usable);
    }
}
