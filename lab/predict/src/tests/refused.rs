//! Steps that cannot be judged leave the predictor unchanged.

use super::*;

/// Half of a region shared, a page of it mapped and two filled, under a TD that may die.
fn guest_that_may_die() -> Predictor {
    let guest = Guest {
        sept_ve_disable: true,
        ..guest(8 * M)
    };
    let operations = [
        accept_4k(0, LEAF),
        share(0, LEAF / 2),
        fill(0, 2 * PAGE, 1, Side::Shared),
    ];
    after("stock", &guest, &operations)
}

#[rstest]
#[case::race_that_kills(parallel(&[&[accept_4k(4 * M, 6 * M)], &[touch(6 * M, 6 * M + PAGE)]]))]
#[case::race_with_such_a_verify(parallel(&[
    &[accept_4k(4 * M, 6 * M)],
    &[verify(4 * M, 4 * M + PAGE, Gone::Every)],
]))]
#[case::nothing_to_read(Action::One(verify(6 * M, 8 * M, Gone::Skip)))]
#[case::release_of_pending_memory(Action::One(release(4 * M, 6 * M, PageLevel::Size2M)))]
#[case::release_at_another_size(Action::One(release(LEAF / 2, LEAF, PageLevel::Size2M)))]
#[case::what_only_plain_vms_have(Action::One(Op::Stop))]
fn a_refused_step_changes_nothing(#[case] action: Action) {
    let mut predictor = guest_that_may_die();
    let before = format!("{predictor:?}");
    predictor.step(&action).unwrap_err();
    assert_eq!(format!("{predictor:?}"), before);
}

/// New memory could be read, but the memory behind it was never filled.
#[test]
fn shared_memory_that_is_partly_unknown_is_not_read_at_all() {
    let mut predictor = after("stock", &guest(8 * M), &[share(0, LEAF)]);
    predictor
        .step(&parallel(&[
            &[fill(LEAF, LEAF + PAGE, 1, Side::Shared)],
            &[share(LEAF, 2 * LEAF)],
        ]))
        .unwrap();
    one(&mut predictor, share(LEAF, 2 * LEAF));
    let before = format!("{predictor:?}");
    let verify = Action::One(verify_shared(0, 2 * LEAF));
    predictor.step(&verify).unwrap_err();
    assert_eq!(format!("{predictor:?}"), before);
}
