//! TDREPORTs and quotes: what is asked, and what an answer must hold.
//!
//! A quote cannot be judged here, nor who signed it. What is judged is the way of the data: REPORTDATA
//! into a TDREPORT, the TDREPORT to the VMM's quote generation service, and its answer back through the
//! memory that the TD shares for it. Where the VMM has no service, or one that refuses, nothing may come
//! back. Linux makes an errno of every refusal; what the VMM said is in `quote_buffer`.

use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_linux::answer::words;
use tdxlab_linux::quotes::{ANSWER, Served, answer_to};
use tdxlab_plan::linux::{REPORT_DATA, report_data};
use tdxlab_protocol::linux::{Ask, Failure, REPORT_BYTES};

use crate::court::Court;
use crate::quote_buffer::{self, Header, Status};

/// Where REPORTDATA is in a TDREPORT. Source: REPORTMACSTRUCT, Intel TDX module ABI specification.
const DATA_AT: usize = 128;

/// First byte of a TDREPORT: REPORTTYPE of a TD.
const TYPE_TDX: u8 = 0x81;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A TDREPORT with this REPORTDATA.
    Report([u8; REPORT_DATA]),
    /// What the lab's service answers to such a TDREPORT.
    Answer([u8; REPORT_DATA]),
    /// No quote: the service gets such a TDREPORT, and refuses.
    Refused([u8; REPORT_DATA]),
    /// No quote: the VMM has no service.
    NoAnswer,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Attested {
    /// The bytes, or how the kernel refused them.
    pub(crate) answer: Result<Vec<u8>, Failure>,
    /// What the lab's service was asked meanwhile.
    pub(crate) served: Vec<Served>,
    /// What the guest's kernel said of a quote that failed.
    pub(crate) logged: Option<String>,
}

/// The request to the agent.
pub(crate) fn ask(quote: bool, nonce: u64) -> Ask {
    let bytes = report_data(nonce);
    let half = |at: usize| bytes[at..at + 32].try_into().expect("half of the data");
    let data = [half(0), half(32)];
    match quote {
        true => Ask::Quote { data },
        false => Ask::Report { data },
    }
}

impl Wanted {
    /// What the VMM must say in the buffer for quotes.
    fn status(&self) -> Option<Status> {
        match self {
            Wanted::Report(_) => None,
            Wanted::Answer(_) => Some(Status::SUCCESS),
            Wanted::Refused(_) => Some(Status::ERROR),
            Wanted::NoAnswer => Some(Status::SERVICE_UNAVAILABLE),
        }
    }

    /// In words, each with the way it is judged.
    pub(crate) fn text(&self) -> Vec<String> {
        let lines: &[&str] = match self {
            Wanted::Report(_) => {
                &["exactly: a TDREPORT of a TD, with the REPORTDATA that was asked for"]
            }
            Wanted::Answer(_) => &[
                "exactly: one TDREPORT with this REPORTDATA reaches the quote generation service",
                "exactly: its answer, which is no quote, comes back byte by byte",
            ],
            Wanted::Refused(_) => &[
                "exactly: one TDREPORT with this REPORTDATA reaches the quote generation service",
                "exactly: no quote, since the service refuses",
            ],
            Wanted::NoAnswer => {
                &["exactly: no quote, since the VMM has no quote generation service"]
            }
        };
        let lines = lines.iter().map(|line| (*line).to_owned());
        lines.chain(self.status().map(quote_buffer::text)).collect()
    }
}

/// Judges what the VMM has written into the buffer.
pub(crate) fn judge_buffer(court: &mut Court, wanted: &Wanted, header: Result<Header, String>) {
    let Some(status) = wanted.status() else {
        return;
    };
    let bytes = match wanted {
        Wanted::Answer(_) => ANSWER,
        _ => 0,
    };
    quote_buffer::judge(court, status, bytes, header);
}

/// Judges an answer.
pub(crate) fn judge(court: &mut Court, wanted: &Wanted, seen: &Attested) {
    court.hear(Witness::Agent);
    if let Some(logged) = &seen.logged {
        court.show(format!(
            "the guest's kernel: {}",
            quote_buffer::with_name(logged)
        ));
    }
    if let Wanted::Refused(data) = wanted
        && let Some(report) = one_report(court, &seen.served, || "no other request".to_owned())
    {
        is_report(court, data, report);
    }
    match (wanted, &seen.answer) {
        (Wanted::Report(data), Ok(bytes)) => match bytes.as_slice().try_into() {
            Ok(report) => is_report(court, data, report),
            Err(_) => {
                let found = format!("{} bytes", bytes.len());
                court.find(wrong(format!("a TDREPORT of {REPORT_BYTES} bytes"), found));
            }
        },
        (Wanted::Answer(data), Ok(bytes)) => answer(court, data, bytes, &seen.served),
        (Wanted::Report(_) | Wanted::Answer(_), Err(failure)) => {
            for served in &seen.served {
                court.show(format!("the quote generation service got {}", name(served)));
            }
            court.find(wrong("done", words(failure)));
        }
        (Wanted::NoAnswer | Wanted::Refused(_), Ok(bytes)) if bytes.is_empty() => {
            court.show("GetQuote gave no bytes".to_owned());
        }
        (Wanted::NoAnswer | Wanted::Refused(_), Ok(bytes)) => {
            let found = format!("{} bytes in place of one", bytes.len());
            court.find(wrong("no quote", found));
        }
        // Without an errno it is the agent that refuses, and nobody was asked.
        (Wanted::NoAnswer | Wanted::Refused(_), Err(failure)) if failure.errno == 0 => {
            court.find(wrong("a request to the VMM", words(failure)));
        }
        (Wanted::NoAnswer | Wanted::Refused(_), Err(failure)) => {
            court.show(format!(
                "GetQuote failed: {}, which is all that Linux passes on",
                words(failure)
            ));
        }
    }
}

fn is_report(court: &mut Court, data: &[u8; REPORT_DATA], report: &[u8; REPORT_BYTES]) {
    if report[0] != TYPE_TDX {
        let expected = format!("REPORTTYPE {TYPE_TDX:#x}, that of a TD");
        court.find(wrong(expected, format!("{:#x}", report[0])));
    }
    let found = &report[DATA_AT..DATA_AT + REPORT_DATA];
    if found != data {
        let expected = format!("REPORTDATA {}", shown(data));
        court.find(wrong(expected, shown(found)));
    }
}

/// The one TDREPORT that the service was to get. `instead`: what goes with none at all.
fn one_report<'a>(
    court: &mut Court,
    served: &'a [Served],
    instead: impl FnOnce() -> String,
) -> Option<&'a [u8; REPORT_BYTES]> {
    if let [Served::Report(report)] = served {
        return Some(report);
    }
    let names: Vec<String> = served.iter().map(name).collect();
    let found = match names.is_empty() {
        true => format!("none, and {}", instead()),
        false => names.join(", "),
    };
    court.find(wrong("one TDREPORT at the quote generation service", found));
    None
}

/// An answer of the lab's service.
fn answer(court: &mut Court, data: &[u8; REPORT_DATA], bytes: &[u8], served: &[Served]) {
    let came = || format!("{} bytes came back", bytes.len());
    let Some(report) = one_report(court, served, came) else {
        return;
    };
    is_report(court, data, report);
    let sent = answer_to(report);
    court.show(format!(
        "{} bytes came back, which are no quote",
        bytes.len()
    ));
    if bytes.len() != sent.len() {
        let text = |length: usize| format!("{length} bytes of the service's answer");
        court.find(wrong(text(sent.len()), text(bytes.len())));
    } else if let Some(at) = bytes
        .iter()
        .zip(&sent)
        .position(|(found, sent)| found != sent)
    {
        let (expected, found) = (shown(&sent[at..]), shown(&bytes[at..]));
        court.find(wrong(
            format!("{expected} at byte {at} of the service's answer"),
            found,
        ));
    }
}

fn wrong(expected: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding::wrong(Witness::Agent, expected, found)
}

fn name(served: &Served) -> String {
    match served {
        Served::Report(_) => "a TDREPORT".to_owned(),
        Served::Other(what) => what.clone(),
    }
}

/// The first bytes, in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    let digits = bytes.iter().take(16).map(|byte| format!("{byte:02x}"));
    let more = if bytes.len() > 16 { "..." } else { "" };
    digits.collect::<String>() + more
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::{Judgement, Verdict};

    use super::*;

    const DATA: [u8; REPORT_DATA] = [5; REPORT_DATA];

    fn report() -> Box<[u8; REPORT_BYTES]> {
        let mut report = Box::new([0; REPORT_BYTES]);
        report[0] = TYPE_TDX;
        report[DATA_AT..DATA_AT + REPORT_DATA].copy_from_slice(&DATA);
        report
    }

    fn judged(wanted: &Wanted, answer: Result<Vec<u8>, Failure>, served: Vec<Served>) -> Judgement {
        let mut court = Court::default();
        let logged = None;
        let seen = Attested {
            answer,
            served,
            logged,
        };
        judge(&mut court, wanted, &seen);
        court.finish().0
    }

    fn fails(judgement: &Judgement, says: &str) {
        assert_eq!(judgement.verdict, Verdict::Fail, "{says}");
        let said = judgement.findings[0].to_string();
        assert!(said.contains(says), "{said}");
    }

    #[test]
    fn a_report_has_its_data() {
        let wanted = Wanted::Report(DATA);
        let right = judged(&wanted, Ok(report().to_vec()), Vec::new());
        assert_eq!(right.verdict, Verdict::Pass);
        let mut other = report().to_vec();
        other[DATA_AT + 63] = 6;
        fails(
            &judged(&wanted, Ok(other), Vec::new()),
            "expected REPORTDATA 0505",
        );
        fails(
            &judged(&wanted, Ok(vec![0; 3]), Vec::new()),
            "found 3 bytes",
        );
        let mut other = report().to_vec();
        other[0] = 0;
        fails(&judged(&wanted, Ok(other), Vec::new()), "REPORTTYPE 0x81");
    }

    #[test]
    fn an_answer_is_that_of_the_service_to_this_report() {
        let wanted = Wanted::Answer(DATA);
        let served = || vec![Served::Report(report())];
        let sent = answer_to(&report());
        assert_eq!(
            judged(&wanted, Ok(sent.clone()), served()).verdict,
            Verdict::Pass
        );
        let mut spoilt = sent.clone();
        spoilt[4096] ^= 1;
        fails(&judged(&wanted, Ok(spoilt), served()), "at byte 4096");
        fails(
            &judged(&wanted, Ok(sent[1..].to_vec()), served()),
            "5999 bytes",
        );
        fails(
            &judged(&wanted, Ok(sent), Vec::new()),
            "found none, and 6000 bytes",
        );
        let mut other = report();
        other[DATA_AT] = 6;
        let answer = answer_to(&other);
        fails(
            &judged(&wanted, Ok(answer), vec![Served::Report(other)]),
            "REPORTDATA",
        );
    }

    #[test]
    fn without_a_service_nothing_may_come_and_the_vmm_must_have_been_asked() {
        let failed = |errno| Failure {
            doing: "reading the quote".try_into().unwrap(),
            errno,
        };
        let judged = |answer| judged(&Wanted::NoAnswer, answer, Vec::new());
        assert_eq!(judged(Ok(Vec::new())).verdict, Verdict::Pass);
        assert_eq!(judged(Err(failed(5))).verdict, Verdict::Pass);
        fails(&judged(Err(failed(0))), "a request to the VMM");
        fails(&judged(Ok(vec![1])), "1 bytes in place of one");
    }

    #[test]
    fn a_service_that_refuses_was_asked_and_sends_no_quote() {
        let failed = |errno| Failure {
            doing: "reading the quote".try_into().unwrap(),
            errno,
        };
        let asked = || vec![Served::Report(report())];
        let judged = |answer, served| judged(&Wanted::Refused(DATA), answer, served);
        assert_eq!(judged(Err(failed(5)), asked()).verdict, Verdict::Pass);
        fails(
            &judged(Err(failed(5)), Vec::new()),
            "one TDREPORT at the quote",
        );
        fails(&judged(Ok(vec![1]), asked()), "1 bytes in place of one");
        let mut other = report();
        other[DATA_AT] = 6;
        let other = vec![Served::Report(other)];
        fails(&judged(Err(failed(5)), other), "expected REPORTDATA 0505");
    }
}
