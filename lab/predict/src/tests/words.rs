//! Helpers of the tests: ranges, guests, operations and races.

use super::*;

pub(super) fn range(start: u64, end: u64) -> GpaRange {
    let at = |offset| Gpa::new(LOW_BASE.as_u64() + offset);
    GpaRange::new(at(start), at(end)).unwrap()
}

pub(super) fn guest(memory: u64) -> Guest {
    let memory = range(0, memory);
    Guest {
        vcpus: 2,
        ..Guest::over(memory)
    }
}

pub(super) fn design(name: &str) -> &'static Design {
    Design::named(name).unwrap()
}

/// A predictor that has gone through some operations.
pub(super) fn after(name: &str, guest: &Guest, operations: &[Op]) -> Predictor {
    let mut predictor = Predictor::new(design(name), guest);
    for op in operations {
        predictor.step(&Action::One(op.clone())).unwrap();
    }
    predictor
}

pub(super) fn one(predictor: &mut Predictor, op: Op) -> Expectation {
    predictor.step(&Action::One(op)).unwrap()
}

pub(super) fn accept(start: u64, end: u64, size: Size) -> Op {
    Op::Accept {
        range: range(start, end),
        size,
        vcpu: VcpuId(0),
    }
}

pub(super) fn probe(start: u64, end: u64, stride: PageLevel) -> Op {
    Op::Probe {
        range: range(start, end),
        stride,
        vcpu: VcpuId(0),
    }
}

pub(super) fn accept_4k(start: u64, end: u64) -> Op {
    accept(start, end, Size::Size4K)
}

pub(super) fn accept_2m(start: u64, end: u64) -> Op {
    accept(start, end, Size::Size2M)
}

pub(super) fn release(start: u64, end: u64, level: PageLevel) -> Op {
    Op::Release {
        range: range(start, end),
        level,
        vcpu: VcpuId(0),
    }
}

pub(super) fn touch(start: u64, end: u64) -> Op {
    Op::Touch {
        range: range(start, end),
        stride: PageLevel::Size4K,
        access: AccessKind::Read,
        side: Side::Private,
        on_ve: OnVe::Skip,
        same_rip: false,
        vcpu: VcpuId(0),
    }
}

pub(super) fn fill(start: u64, end: u64, generation: u16, side: Side) -> Op {
    Op::Fill {
        range: range(start, end),
        generation: Generation::new(generation).unwrap(),
        side,
        vcpu: VcpuId(0),
    }
}

pub(super) fn verify(start: u64, end: u64, gone: Gone) -> Op {
    Op::Verify {
        range: range(start, end),
        gone,
        side: Side::Private,
        vcpu: VcpuId(0),
    }
}

pub(super) fn verify_shared(start: u64, end: u64) -> Op {
    Op::Verify {
        range: range(start, end),
        gone: Gone::Skip,
        side: Side::Shared,
        vcpu: VcpuId(0),
    }
}

pub(super) fn convert(start: u64, end: u64, to: Side) -> Op {
    Op::Convert {
        range: range(start, end),
        to,
        vcpu: VcpuId(0),
    }
}

pub(super) fn punch(start: u64, end: u64) -> Op {
    Op::Punch {
        range: range(start, end),
    }
}

pub(super) fn share(start: u64, end: u64) -> Op {
    convert(start, end, Side::Shared)
}

pub(super) fn unshare(start: u64, end: u64) -> Op {
    convert(start, end, Side::Private)
}

pub(super) fn parallel(branches: &[&[Op]]) -> Action {
    Action::Parallel(branches.iter().map(|ops| Branch(ops.to_vec())).collect())
}

/// Two branches that accept the first region in different ways.
pub(super) fn accepts_race() -> Action {
    parallel(&[&[accept_4k(0, LEAF)], &[accept_2m(0, LEAF)]])
}

pub(super) fn slot(start: u64, end: u64, gmem_offset: u64) -> Slot {
    Slot {
        range: range(start, end),
        gmem_offset,
    }
}

pub(super) fn slotted(memory: u64, slots: &[Slot]) -> Guest {
    Guest {
        slots: slots.to_vec(),
        ..guest(memory)
    }
}
