//! The doctor's check with a TD: boots it, accepts, punches, and reads every witness.
//!
//! Each fact depends on those before it, as on the first day of new hardware.

use std::ops::RangeInclusive;
use std::path::Path;

use tdxlab_host::{HostError, Session};
use tdxlab_journal::{Ending, PageCounters, REHEARSAL, REHEARSAL_FACT, Reading, Sample, klog};
use tdxlab_kernel::doctor::{Fact, Status};
use tdxlab_plan::{LOW_BASE, Op, Size, VcpuId};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{Hello, Run};
use tdxlab_protocol::tdcall::{ATTRIBUTES_REHEARSAL, status};

use crate::tdx::{Stages, TdxHost, detect};

/// Offset into test memory of a range the design probe does not touch.
const UNTOUCHED: u64 = 8 << 20;

/// Boots a TD and checks it. It leaves nothing behind but the evidence of a failure, in `keep` if
/// given.
pub fn deep(host: &TdxHost, keep: Option<&Path>) -> Vec<Fact> {
    let mut facts = match keep {
        Some(folder) => match std::fs::create_dir_all(folder) {
            Ok(()) => look_into(host, folder),
            Err(error) => vec![no_folder(&folder.display().to_string(), &error)],
        },
        None => match tempfile::tempdir() {
            Ok(folder) => look_into(host, folder.path()),
            Err(error) => vec![no_folder("a temporary folder", &error)],
        },
    };
    let files = match keep {
        Some(folder) => format!("its files are in {}", folder.display()),
        None => "doctor --deep --out DIR keeps its files".to_owned(),
    };
    for fact in &mut facts {
        if fact.standing == Status::Unusable {
            let advice = fact.advice.take().map(|advice| format!("{advice}; "));
            fact.advice = Some(advice.unwrap_or_default() + &files);
        }
    }
    facts
}

fn no_folder(which: &str, error: &std::io::Error) -> Fact {
    Fact::unusable("deep", format!("{which} cannot be made: {error}"))
        .advise("name another one with --out")
}

/// Kernel messages during the teardown of the TD.
fn after_the_end(ending: &Ending) -> Fact {
    let name = "deep.end";
    let ended = "QEMU has ended, and the TD with it";
    let complaint = ending
        .kernel_log
        .left()
        .and_then(|lines| lines.iter().find(|line| klog::complaint(line).is_some()));
    match complaint {
        None => Fact::usable(name, ended),
        Some(line) => Fact::unusable(name, format!("{ended}, but the kernel said \"{line}\""))
            .advise("report it to KVM's developers, with the kernel log around it"),
    }
}

/// The whole check. Evidence of a failure is in `folder` afterwards.
fn look_into(host: &TdxHost, folder: &Path) -> Vec<Fact> {
    let mut stages = Stages::default();
    let booted = host.boot_probe(folder, &mut stages);
    let mut facts = boot_facts(&stages, booted.as_ref().err());
    let Ok(mut session) = booted else {
        return facts;
    };
    facts.extend(look(session.as_mut()));
    if facts.iter().any(|fact| fact.standing == Status::Unusable) {
        for (name, content) in session.evidence() {
            // The failure is reported in any case; this is a best effort.
            let _ = std::fs::write(folder.join(name), content);
        }
    }
    match session.end() {
        Ok(ending) => facts.push(after_the_end(&ending)),
        Err(error) => facts.push(refused("deep.end", &error)),
    }
    facts
}

/// The stages of a boot up to the one that failed: each needs those before it.
fn boot_facts(stages: &Stages, error: Option<&HostError>) -> Vec<Fact> {
    let made = stages
        .made
        .then(|| Fact::usable("deep.made", "QEMU has made a TD and finalised it"));
    let populated = stages.populated.as_ref().map(|preflight| {
        let counted = |pages: &Reading<u64>| matches!(pages, Reading::Read(_));
        let said = format!("before its first instruction: {preflight}");
        if counted(&preflight.ram) && counted(&preflight.image) {
            Fact::usable("deep.populated", said)
        } else {
            Fact::limited("deep.populated", said)
        }
    });
    let first_byte = stages.first_byte.then(|| {
        Fact::usable(
            "deep.first_byte",
            "it has reached 64-bit mode and sent a byte",
        )
    });
    let hello = stages.hello.as_ref().map(|hello| {
        Fact::usable(
            "deep.hello",
            format!("it takes commands; {} vCPU", hello.vcpus),
        )
    });
    let introduction = stages.hello.as_ref().map(introduction);
    let names = [
        "deep.made",
        "deep.populated",
        "deep.first_byte",
        "deep.hello",
        "deep.hello",
    ];
    let mut facts = Vec::new();
    for (name, stage) in names
        .into_iter()
        .zip([made, populated, first_byte, hello, introduction])
    {
        match (stage, error) {
            (Some(fact), _) => facts.push(fact),
            (None, Some(error)) => {
                facts.push(refused(name, error));
                return facts;
            }
            (None, None) => {}
        }
    }
    // All stages succeeded, but it still did not boot.
    facts.extend(error.map(|error| refused("deep.commands", error)));
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

/// The result of TDG.VP.INFO.
fn introduction(hello: &Hello) -> Fact {
    let pending = match hello.pending_ve_disabled {
        Some(true) => "a touch before ACCEPT kills",
        Some(false) => "a touch before ACCEPT is a #VE",
        None => "the module does not say what a touch before ACCEPT does",
    };
    let rehearsal = if hello.attributes & ATTRIBUTES_REHEARSAL == 0 {
        String::new()
    } else {
        format!("; {REHEARSAL_FACT}: {REHEARSAL}")
    };
    Fact::usable(
        "deep.vp_info",
        format!(
            "GPA width {}, attributes {:#x}, {} vCPU; {pending}{rehearsal}",
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
    let steps: [(&str, Op, Wanted); 5] = [
        // These pages are unused, so there is nothing to lose or to unmap.
        (
            "deep.hole_unused",
            Op::Punch { range: pages },
            Wanted::AnyHole,
        ),
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
        let failed = fact.standing == Status::Unusable;
        facts.push(fact);
        if failed {
            return facts;
        }
        if name == "deep.accept" {
            after = Some(session.sample());
        }
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

/// Accepted results of an operation.
#[derive(Clone, Copy)]
enum Wanted {
    /// This status on every page.
    Status(u64),
    /// Either status: a refused hole changes nothing.
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
        (Reading::Missing { reason } | Reading::Incomplete { reason, .. }, _)
        | (_, Reading::Missing { reason } | Reading::Incomplete { reason, .. }) => {
            Fact::limited(name, format!("not readable: {reason}"))
        }
    }
}

fn readable<T>(name: &str, reading: &Reading<T>) -> Fact {
    match reading {
        Reading::Read(_) => Fact::usable(name, "readable"),
        Reading::Missing { reason } | Reading::Incomplete { reason, .. } => {
            Fact::limited(name, format!("not readable: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tdxlab_host::{BootOptions, Host};
    use tdxlab_host_soft::sim::SimHost;

    use super::*;
    use crate::tdx::preflight::Preflight;

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
            module: None,
            seed: 1,
            folder: folder.path().to_owned(),
            patience: std::time::Duration::from_secs(60),
            fresh: true,
        };
        let mut session = SimHost::new().boot(&detect::guest(), &options).unwrap();
        let facts = look(session.as_mut());
        for fact in &facts {
            assert_ne!(fact.standing, Status::Unusable, "{fact:?}");
        }
        let found = |name: &str| {
            let fact = facts.iter().find(|fact| fact.name == name);
            fact.unwrap_or_else(|| panic!("no {name}")).found.clone()
        };
        assert!(found("deep.hole_unused").contains(hole));
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

    /// The report must show how far the boot came.
    #[rstest]
    #[case::not_made(Stages::default(), &["deep.made"])]
    #[case::populated_wrongly(
        Stages { made: true, ..Stages::default() },
        &["deep.made", "deep.populated"]
    )]
    #[case::silent(
        Stages { made: true, populated: preflight(), ..Stages::default() },
        &["deep.made", "deep.populated", "deep.first_byte"]
    )]
    #[case::speaks_nonsense(
        Stages { made: true, populated: preflight(), first_byte: true, hello: None },
        &["deep.made", "deep.populated", "deep.first_byte", "deep.hello"]
    )]
    fn a_boot_that_fails_says_at_which_stage(#[case] stages: Stages, #[case] names: &[&str]) {
        let error = HostError::Qemu {
            what: "ended".to_owned(),
            advice: "look".to_owned(),
        };
        let facts = boot_facts(&stages, Some(&error));
        let found: Vec<&str> = facts.iter().map(|fact| fact.name.as_str()).collect();
        assert_eq!(found, names);
        let (last, before) = facts.split_last().unwrap();
        assert_eq!(last.standing, Status::Unusable);
        assert!(before.iter().all(|fact| fact.standing == Status::Usable));
    }

    fn preflight() -> Option<Preflight> {
        Some(Preflight {
            ram: Reading::Read(514),
            image: Reading::Read(16),
        })
    }

    #[test]
    fn what_was_not_counted_before_it_ran_is_limited() {
        let stages = Stages {
            made: true,
            populated: Some(Preflight {
                ram: Reading::Read(514),
                image: Reading::missing("no such file"),
            }),
            ..Stages::default()
        };
        let facts = boot_facts(&stages, None);
        assert_eq!(facts[1].standing, Status::Limited);
        assert!(facts[1].found.contains("no such file"));
    }

    #[test]
    fn a_counter_that_stands_still_is_said() {
        let read = Reading::Read;
        let still = moved("x", &read(5), &read(5), 16..=16, |&pages: &u64| pages);
        assert_eq!(still.standing, Status::Limited);
        let missing = moved(
            "x",
            &read(5),
            &Reading::missing("no rights"),
            16..=16,
            |&pages| pages,
        );
        assert!(missing.found.contains("no rights"));
        let right = moved("x", &read(5), &read(21), 16..=16, |&pages| pages);
        assert_eq!(right.standing, Status::Usable);
    }
}
