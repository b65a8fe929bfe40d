//! Expectations against predictions, key by key, agreeing and not.

use rstest::rstest;
use tdxlab_plan::addr::{Gpa, PageLevel};
use tdxlab_plan::{ExpectStatus, Interval, PageDelta, StatusRun};

use super::*;
use crate::Predictor;

/// The numbers of a step that was not raced, each another.
fn expectation() -> Expectation {
    Expectation {
        td_alive: true,
        splits: Interval::exactly(2),
        pages: PageDelta {
            pages_4k: Interval::exactly(512),
            pages_2m: Interval::exactly(-1),
            pages_1g: Interval::exactly(0),
        },
        accept_exits: Interval { min: 3, max: 5 },
        entries_at_most: Some(2),
        errnos: vec![0],
        ..Expectation::default()
    }
}

fn statuses(values: &[u64]) -> Option<Vec<StatusRun>> {
    let run = |(index, status): (usize, &u64)| StatusRun {
        start: Gpa::from_gfn(index as u64),
        level: PageLevel::Size4K,
        count: 1,
        status: *status,
    };
    Some(values.iter().enumerate().map(run).collect())
}

/// Key, author, predictor.
fn found(expected: &Expectation, expect: &Expect) -> Vec<[String; 3]> {
    let mismatches = Predictor::check_expect(expected, expect).into_iter();
    mismatches
        .map(|found| [found.field.to_owned(), found.written, found.predictor])
        .collect()
}

#[rstest]
#[case::nothing_written(Expect::default(), None)]
#[case::splits(Expect { splits: Some(2), ..Expect::default() }, None)]
#[case::other_splits(
    Expect { splits: Some(1), ..Expect::default() }, Some(["splits", "1", "+2"]))]
#[case::pages_4k(Expect { pages_4k: Some(512), ..Expect::default() }, None)]
#[case::other_pages_4k(
    Expect { pages_4k: Some(511), ..Expect::default() }, Some(["pages_4k", "511", "+512"]))]
#[case::pages_2m(Expect { pages_2m: Some(-1), ..Expect::default() }, None)]
#[case::other_pages_2m(
    Expect { pages_2m: Some(1), ..Expect::default() }, Some(["pages_2m", "1", "-1"]))]
#[case::pages_1g(Expect { pages_1g: Some(0), ..Expect::default() }, None)]
#[case::other_pages_1g(
    Expect { pages_1g: Some(1), ..Expect::default() }, Some(["pages_1g", "1", "+0"]))]
#[case::first_of_a_range(Expect { accept_exits: Some(3), ..Expect::default() }, None)]
#[case::last_of_a_range(Expect { accept_exits: Some(5), ..Expect::default() }, None)]
#[case::out_of_range(
    Expect { accept_exits: Some(6), ..Expect::default() },
    Some(["accept_exits", "6", "+3..=+5"]))]
#[case::errno(Expect { errno: Some(ExpectErrno::Ok), ..Expect::default() }, None)]
#[case::other_errno(
    Expect { errno: Some(ExpectErrno::EINVAL), ..Expect::default() },
    Some(["errno", "22", "[0]"]))]
#[case::alive(Expect { td: Some(ExpectTd::Alive), ..Expect::default() }, None)]
#[case::killed(
    Expect { td: Some(ExpectTd::Killed), ..Expect::default() }, Some(["td", "killed", "alive"]))]
#[case::as_many_entries(Expect { entries_at_most: Some(2), ..Expect::default() }, None)]
#[case::more_entries(Expect { entries_at_most: Some(3), ..Expect::default() }, None)]
#[case::fewer_entries(
    Expect { entries_at_most: Some(1), ..Expect::default() },
    Some(["entries_at_most", "1", "up to 2"]))]
fn one_key(#[case] expect: Expect, #[case] wanted: Option<[&str; 3]>) {
    let wanted: Vec<_> = wanted.into_iter().collect();
    assert_eq!(found(&expectation(), &expect), wanted);
}

/// Every host call of a step must end so, and there must be one.
#[rstest]
#[case::none(&[], ExpectErrno::Ok, false)]
#[case::success(&[0, 0], ExpectErrno::Ok, true)]
#[case::the_last_fails(&[0, 22], ExpectErrno::Ok, false)]
#[case::only_the_last(&[0, 22], ExpectErrno::EINVAL, false)]
#[case::invalid(&[22], ExpectErrno::EINVAL, true)]
#[case::no_memory(&[12], ExpectErrno::ENOMEM, true)]
#[case::no_memory_for_invalid(&[22], ExpectErrno::ENOMEM, false)]
fn every_host_call_ends_so(
    #[case] errnos: &[i32],
    #[case] wanted: ExpectErrno,
    #[case] agrees: bool,
) {
    let expected = Expectation {
        errnos: errnos.to_vec(),
        ..expectation()
    };
    let expect = Expect {
        errno: Some(wanted),
        ..Expect::default()
    };
    assert_eq!(found(&expected, &expect).is_empty(), agrees);
}

#[rstest]
#[case::alive(ExpectTd::Alive, &[["td", "alive", "killed"]])]
#[case::killed(ExpectTd::Killed, &[])]
fn a_td_that_dies(#[case] wanted: ExpectTd, #[case] mismatches: &[[&str; 3]]) {
    let expected = Expectation {
        td_alive: false,
        ..expectation()
    };
    let expect = Expect {
        td: Some(wanted),
        ..Expect::default()
    };
    assert_eq!(found(&expected, &expect), mismatches);
}

#[test]
fn no_promise_keeps_no_bound() {
    let expected = Expectation {
        entries_at_most: None,
        ..expectation()
    };
    let expect = Expect {
        entries_at_most: Some(1 << 20),
        ..Expect::default()
    };
    let says = "no promise: this design walks the range";
    assert_eq!(
        found(&expected, &expect),
        [["entries_at_most", "1048576", says]]
    );
}

/// Names against raw values: docs/semantics.md, section 1.
#[rstest]
#[case::success(0, Some(ExpectStatus::Success))]
#[case::already_accepted_4k(0x0000_0b0a_0000_0000, Some(ExpectStatus::AlreadyAccepted))]
#[case::already_accepted_2m(0x0000_0b0a_0000_0001, Some(ExpectStatus::AlreadyAccepted))]
#[case::size_mismatch(0xc000_0b0b_0000_0001, Some(ExpectStatus::SizeMismatch))]
#[case::operand_invalid(0xc000_0100_0000_0001, Some(ExpectStatus::OperandInvalid))]
#[case::operand_busy(0x8000_0200_0000_0001, None)]
fn names_of_statuses(#[case] status: u64, #[case] name: Option<ExpectStatus>) {
    let expected = Expectation {
        statuses: statuses(&[status]),
        ..expectation()
    };
    for wanted in [
        ExpectStatus::Success,
        ExpectStatus::AlreadyAccepted,
        ExpectStatus::SizeMismatch,
        ExpectStatus::OperandInvalid,
    ] {
        let expect = Expect {
            status: Some(wanted),
            ..Expect::default()
        };
        let agrees = found(&expected, &expect).is_empty();
        assert_eq!(agrees, name == Some(wanted), "{wanted:?}");
    }
}

/// Every ACCEPT must return it, and there must be one; in a race it is unknown.
#[rstest]
#[case::raced(None, None)]
#[case::none(statuses(&[]), Some("no ACCEPT at all"))]
#[case::all(statuses(&[0, 0]), None)]
#[case::not_the_last(statuses(&[0, 0xc000_0b0b_0000_0001]), Some("0xc0000b0b00000001 at 0x1000"))]
fn one_status_for_all(#[case] statuses: Option<Vec<StatusRun>>, #[case] says: Option<&str>) {
    let expected = Expectation {
        statuses,
        ..expectation()
    };
    let expect = Expect {
        status: Some(ExpectStatus::Success),
        ..Expect::default()
    };
    let wanted: Vec<_> = says
        .map(|says| ["status", "Success", says])
        .into_iter()
        .collect();
    assert_eq!(found(&expected, &expect), wanted);
}

/// Of a race only what no order can bring is refused.
#[rstest]
#[case::possible(ExpectStatus::AlreadyAccepted, None)]
#[case::impossible(
    ExpectStatus::OperandInvalid,
    Some("one of SUCCESS, PAGE_ALREADY_ACCEPTED L=0 (0x00000b0a00000000)")
)]
fn a_status_of_a_race(#[case] wanted: ExpectStatus, #[case] says: Option<&str>) {
    let expected = Expectation {
        legal_statuses: vec![0, 0x0b0a_0000_0000],
        ..expectation()
    };
    let expect = Expect {
        status: Some(wanted),
        ..Expect::default()
    };
    let said: Vec<String> = found(&expected, &expect)
        .into_iter()
        .map(|[.., says]| says)
        .collect();
    assert_eq!(said, Vec::from_iter(says));
}
