//! Compares the author's expectations with the prediction.

use tdxlab_plan::names::{Status, VmcallStatus};
use tdxlab_plan::{Expect, ExpectErrno, ExpectMapGpa, ExpectTd, Expectation};

/// A value under `expect` that the predictor contradicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The key under `expect`.
    pub field: &'static str,
    /// The author's value.
    pub written: String,
    /// The predicted value.
    pub predictor: String,
}

/// Every value the author gave that cannot be. A value inside the bounds of a racing step may be.
pub(super) fn mismatches(expected: &Expectation, expect: &Expect) -> Vec<Mismatch> {
    let numbers = [
        ("splits", expect.splits.map(|n| n as i64), expected.splits),
        ("pages_4k", expect.pages_4k, expected.pages.pages_4k),
        ("pages_2m", expect.pages_2m, expected.pages.pages_2m),
        ("pages_1g", expect.pages_1g, expected.pages.pages_1g),
        (
            "accept_exits",
            expect.accept_exits.map(|n| n as i64),
            expected.accept_exits,
        ),
    ];
    let mut found: Vec<Mismatch> = numbers
        .into_iter()
        .filter_map(|(field, expect, predictor)| {
            let expect = expect.filter(|value| !predictor.contains(*value))?;
            Some(Mismatch {
                field,
                written: expect.to_string(),
                predictor: predictor.to_string(),
            })
        })
        .collect();
    let mut differ = |field, written: String, predictor: String| {
        found.push(Mismatch {
            field,
            written,
            predictor,
        });
    };
    if let Some(wanted) = expect.status {
        let runs = expected.statuses.as_deref().unwrap_or_default();
        let other = runs.iter().find(|run| !wanted.is(run.status));
        if expected.statuses.is_some() && (runs.is_empty() || other.is_some()) {
            let says = match other {
                Some(run) => format!("{:#x} at {}", run.status, run.start),
                None => "no ACCEPT at all".to_owned(),
            };
            differ("status", format!("{wanted:?}"), says);
        }
        let legal = &expected.legal_statuses;
        if expected.statuses.is_none()
            && !legal.is_empty()
            && !legal.iter().any(|legal| wanted.is(*legal))
        {
            let names: Vec<String> = legal.iter().map(|s| Status(*s).to_string()).collect();
            let says = format!("one of {}", names.join(", "));
            differ("status", format!("{wanted:?}"), says);
        }
    }
    if let Some(wanted) = expect.errno {
        let number = match wanted {
            ExpectErrno::Ok => 0,
            ExpectErrno::EINVAL => 22,
            ExpectErrno::ENOMEM => 12,
            ExpectErrno::EFAULT => 14,
            ExpectErrno::EAGAIN => 11,
            ExpectErrno::ENOTTY => 25,
        };
        if expected.errnos.is_empty() || expected.errnos.iter().any(|errno| *errno != number) {
            differ(
                "errno",
                number.to_string(),
                format!("{:?}", expected.errnos),
            );
        }
    }
    if let Some(wanted) = expect.map_gpa {
        let number = match wanted {
            ExpectMapGpa::Success => 0,
            ExpectMapGpa::Retry => 1,
            ExpectMapGpa::InvalidOperand => 1 << 63,
            ExpectMapGpa::AlignError => (1 << 63) + 2,
        };
        if expected.map_gpa != Some(number) {
            let says = expected.map_gpa.map(VmcallStatus);
            let says = says.map_or_else(|| "no MapGPA".to_owned(), |status| status.to_string());
            differ("map_gpa", format!("{wanted:?}"), says);
        }
    }
    if let Some(wanted) = expect.td
        && (wanted == ExpectTd::Alive) != expected.td_alive
    {
        let says = if expected.td_alive { "alive" } else { "killed" };
        differ("td", format!("{wanted:?}").to_lowercase(), says.to_owned());
    }
    if let Some(most) = expect.entries_at_most {
        match expected.entries_at_most {
            Some(promised) if promised <= most => {}
            Some(promised) => differ(
                "entries_at_most",
                most.to_string(),
                format!("up to {promised}"),
            ),
            None => differ(
                "entries_at_most",
                most.to_string(),
                "no promise: this design walks the range".to_owned(),
            ),
        }
    }
    found
}

#[cfg(test)]
mod tests;
