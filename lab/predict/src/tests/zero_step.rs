//! Touches by one instruction.

use tdxlab_plan::{SlotChange, TdxModule};

use super::*;

fn same_rip(start: u64, end: u64, stride: PageLevel, vcpu: u16) -> Op {
    Op::Touch {
        range: range(start, end),
        stride,
        access: AccessKind::Write,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: true,
        vcpu: VcpuId(vcpu),
    }
}

fn on(name: &str, module: Option<TdxModule>) -> Predictor {
    Predictor::new(design(name), &guest(64 * M)).on_module(module)
}

fn why(predictor: &mut Predictor, op: Op) -> String {
    let before = format!("{predictor:?}");
    let refused = predictor.step(&Action::One(op)).unwrap_err();
    assert_eq!(
        format!("{predictor:?}"),
        before,
        "a refused step changes nothing"
    );
    assert!(!refused.advice.is_empty());
    refused.why
}

const SMALL: PageLevel = PageLevel::Size4K;

#[rstest]
#[case::oldest(Some(TdxModule::V1_5_01), "module 1.5.01 keeps vCPU 0 out")]
#[case::unknown(None, "depends on the TDX module")]
fn the_seventh_fault_may_never_end(#[case] module: Option<TdxModule>, #[case] expected: &str) {
    let mut predictor = on("stock", module);
    let six = one(&mut predictor, same_rip(0, 6 * PAGE, SMALL, 0));
    assert_eq!(six.access_exits.single(), Some(6));
    // Those that are there do not count, nor those of another vCPU.
    one(&mut predictor, same_rip(0, 6 * PAGE, SMALL, 0));
    one(&mut predictor, same_rip(M, M + 6 * PAGE, SMALL, 1));
    let said = why(&mut predictor, same_rip(8 * PAGE, 9 * PAGE, SMALL, 0));
    assert!(said.contains(expected), "{said}");
    // A fault at another instruction starts the count anew.
    one(&mut predictor, touch(16 * PAGE, 17 * PAGE));
    one(&mut predictor, same_rip(8 * PAGE, 9 * PAGE, SMALL, 0));
}

#[test]
fn a_leaf_is_one_fault() {
    let mut predictor = on("headtail", Some(TdxModule::V1_5_01));
    let six = one(&mut predictor, same_rip(0, 6 * LEAF, SMALL, 0));
    assert_eq!(six.access_exits.single(), Some(6));
    why(
        &mut predictor,
        same_rip(6 * LEAF, 6 * LEAF + PAGE, SMALL, 0),
    );
}

#[rstest]
#[case::hole(Op::Punch { range: range(14 * M, 16 * M) })]
#[case::part_of_a_leaf(Op::Punch { range: range(15 * M, 15 * M + PAGE) })]
#[case::conversion(share(14 * M, 15 * M))]
#[case::conversion_by_an_access(fill(14 * M, 14 * M + PAGE, 1, Side::Shared))]
#[case::attributes(Op::SetAttributes { range: range(14 * M, 16 * M), to: Side::Shared })]
#[case::slot(Op::Slot { range: range(0, 64 * M), change: SlotChange::Delete })]
fn what_may_be_noted_stays(#[case] op: Op) {
    let mut predictor = on("headtail", Some(TdxModule::V1_5_25));
    let sixteen = one(&mut predictor, same_rip(0, 32 * M, PageLevel::Size2M, 1));
    assert_eq!(sixteen.access_exits.single(), Some(16));
    let said = why(&mut predictor, op.clone());
    assert!(said.contains("vCPU 1"), "{said}");
    // The first six are not noted. What another vCPU does changes nothing.
    one(
        &mut predictor,
        Op::Punch {
            range: range(0, 12 * M),
        },
    );
    one(&mut predictor, touch(40 * M, 40 * M + PAGE));
    why(&mut predictor, op.clone());
    one(&mut predictor, accept_4k(14 * M, 14 * M + PAGE));
    why(&mut predictor, op.clone());
    let another = Op::Touch {
        range: range(42 * M, 42 * M + PAGE),
        stride: SMALL,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(1),
    };
    one(&mut predictor, another);
    one(&mut predictor, op);
}

/// Pages on both sides of what is noted go as they like.
#[test]
fn only_the_seventh_and_later_pages_are_noted() {
    let mut predictor = on("stock", Some(TdxModule::V1_5_25));
    one(&mut predictor, same_rip(0, 10 * PAGE, SMALL, 0));
    one(&mut predictor, accept_4k(10 * PAGE, 12 * PAGE));
    let punch = |start, end| Op::Punch {
        range: range(start, end),
    };
    one(&mut predictor, punch(0, 6 * PAGE));
    one(&mut predictor, punch(10 * PAGE, 12 * PAGE));
    why(&mut predictor, punch(6 * PAGE, 7 * PAGE));
    why(&mut predictor, punch(9 * PAGE, 10 * PAGE));
}

#[test]
fn races_where_it_counts_are_refused() {
    let mut predictor = on("headtail", Some(TdxModule::V1_5_25));
    let count = same_rip(0, 32 * M, PageLevel::Size2M, 1);
    let met = parallel(&[
        std::slice::from_ref(&count),
        &[accept_4k(31 * M, 31 * M + PAGE)],
    ]);
    predictor.step(&met).unwrap_err();
    let apart = parallel(&[std::slice::from_ref(&count), &[accept_4k(32 * M, 33 * M)]]);
    let expected = predictor.step(&apart).unwrap();
    assert_eq!(expected.access_exits.single(), Some(16));
    let over = parallel(&[
        &[touch(40 * M, 40 * M + PAGE)],
        &[Op::Punch {
            range: range(14 * M, 16 * M),
        }],
    ]);
    predictor.step(&over).unwrap_err();
}
