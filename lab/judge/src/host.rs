//! Whether the TD lives, and results of host calls.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_journal::{Death, Killer};
use tdxlab_plan::addr::Gpa;
use tdxlab_plan::names::Errno;

use super::findings::{Evidence, Findings};

/// A TD that dies unexpectedly, or survives where it had to die. The finding names the side at
/// fault.
pub(super) fn life(evidence: &Evidence<'_>, findings: &mut Findings) {
    court_hears_life(evidence, findings);
    let (killer, must) = if evidence.expected.ended_by_vmm {
        let must = "the VMM ends the TD, since no memory lies behind an address";
        (Killer::Vmm, must)
    } else {
        let must = "KVM ends the TD for an access to a page that is not accepted";
        (Killer::AccessBeforeAccept, must)
    };
    match (evidence.expected.td_alive, evidence.death()) {
        (true, None) => {}
        (true, Some(death)) => findings.find(Finding::wrong(
            Witness::Td,
            "the TD lives on",
            describe(death),
        )),
        (false, None) => findings.find(Finding::wrong(Witness::Td, must, "the TD lives on")),
        (false, Some(death)) if death.by == killer => {}
        (false, Some(death)) => {
            findings.find(Finding::wrong(Witness::Td, must, describe(death)));
        }
    }
}

/// A living TD is evidence only where a death was expected or seen.
fn court_hears_life(evidence: &Evidence<'_>, findings: &mut Findings) {
    if !evidence.expected.td_alive || evidence.death().is_some() {
        findings.heard(Witness::Td);
    }
}

fn describe(death: &Death) -> String {
    let who = match death.by {
        Killer::AccessBeforeAccept => {
            "KVM ended the TD: the guest touched a page that is not accepted, which the host had \
             taken away or never given"
        }
        Killer::KvmBug => "KVM ended the TD",
        Killer::Guest => "the guest ended itself",
        Killer::Vmm => "the VMM ended",
        Killer::HostMemory => "the machine's memory is to blame",
        Killer::ExitsForEver => "a vCPU exits for ever",
    };
    if death.text.is_empty() {
        who.to_owned()
    } else {
        format!("{who} ({})", death.text.trim())
    }
}

/// errno of every host call, in order.
pub(super) fn errnos(evidence: &Evidence<'_>, findings: &mut Findings) {
    let found: Vec<(usize, i32)> = evidence
        .pairs()
        .enumerate()
        .filter_map(|(index, (_, observed))| observed.errno.map(|errno| (index, errno)))
        .collect();
    let expected = &evidence.expected.errnos;
    if expected.is_empty() && found.is_empty() {
        return;
    }
    if found.len() < expected.len() && evidence.death().is_none() {
        findings.missing(
            Witness::Errno,
            format!(
                "{} host calls were to be made, {} reported how they ended",
                expected.len(),
                found.len()
            ),
        );
    }
    if !found.is_empty() {
        findings.heard(Witness::Errno);
    }
    for (call, (_, found)) in found.iter().enumerate() {
        let Some(expected) = expected.get(call) else {
            findings.find(Finding::impossible(
                Witness::Errno,
                format!("{} host calls", expected.len()),
                format!("one more, ending in {}", Errno(*found)),
            ));
            continue;
        };
        if expected != found {
            findings.find(Finding::wrong(
                Witness::Errno,
                Errno(*expected).to_string(),
                Errno(*found).to_string(),
            ));
        }
    }
    stopped(evidence, findings);
}

/// Where a call says that it stopped.
fn stopped(evidence: &Evidence<'_>, findings: &mut Findings) {
    let told = |at: Option<Gpa>| match at {
        Some(gpa) => format!("a call that stops at {gpa}"),
        None => "no call that stops anywhere".to_owned(),
    };
    let found = evidence.pairs().find_map(|(_, observed)| observed.error_at);
    let expected = evidence.expected.error_at;
    if found != expected {
        findings.find(Finding::wrong(Witness::Errno, told(expected), told(found)));
    }
}
