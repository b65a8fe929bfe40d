//! Parallel operations.

use tdxlab_protocol::message::Run;

use super::booted::*;

/// Two vCPUs accept the same memory at different sizes while the host punches holes in it. In any
/// order, the counters match the mappings afterwards and the guest reads allowed content.
#[test]
fn accepts_race_each_other_and_a_hole() {
    let mut booted = Booted::new(&guest(8 * MIB, 3), "headtail");
    let before = booted.counters();
    let large = [accept_on(1, 0, 8 * MIB, Size::Linux)];
    let small = [accept_on(2, 0, 2 * MIB, Size::Size4K), fill(2, 0, 4096, 1)];
    let holes = [punch(MIB, 3 * MIB), punch(5 * MIB, 6 * MIB)];
    let branches: [&[Op]; 3] = [&large, &small, &holes];
    for seed in 0..4 {
        let results = booted.session.perform_parallel(&branches, seed).unwrap();
        let lengths: Vec<usize> = results.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 2, 2]);
        assert_eq!(results[2][0].errno, Some(0));
        assert!(matches!(results[0][0].runs[0], Run::Accept { .. }));

        booted.perform(&punch(0, 8 * MIB));
        let after = booted.counters();
        assert_eq!(after, before, "seed {seed}: nothing is left mapped");
    }
    let evidence = booted.session.evidence();
    let (_, schedule) = evidence
        .iter()
        .find(|(name, _)| name == "schedule.txt")
        .unwrap();
    let schedule = String::from_utf8_lossy(schedule);
    assert!(
        schedule.contains("vcpu1") && schedule.contains("host"),
        "{schedule}"
    );
}

#[test]
fn a_fill_races_a_conversion() {
    let mut booted = Booted::new(&guest(4 * MIB, 2), "v5");
    booted.perform(&accept(0, 4 * MIB, Size::Size2M));
    let convert = |to| Op::Convert {
        range: range(MIB, 2 * MIB),
        to,
        vcpu: VcpuId(1),
    };
    let conversions = [convert(Side::Shared), convert(Side::Private)];
    let fills = [fill(0, 2 * MIB, 4 * MIB, 1)];
    let branches: [&[Op]; 2] = [&conversions, &fills];
    booted.session.perform_parallel(&branches, 7).unwrap();
    let read = booted.perform(&verify(2 * MIB, 4 * MIB));
    assert_eq!(
        read.runs.len(),
        1,
        "memory outside is intact: {:?}",
        read.runs
    );
}
