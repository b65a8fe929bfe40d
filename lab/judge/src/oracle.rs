//! Sources of predictions.

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{
    Action, Design, Expectation, Guest, HostProfile, MemoryMap, Op, Plan, Side, TdxModule,
};
use tdxlab_predict::{Predictor, Unjudgeable};

/// Follows one plan, step by step. The predictor is one; tests have others.
pub trait Oracle {
    /// Predicts the next step; or why that is impossible.
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String>;

    /// How `memory` must look after the last step that was foreseen.
    fn map(&self, memory: GpaRange) -> MemoryMap;
}

impl Oracle for Box<dyn Oracle> {
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String> {
        self.as_mut().foresee(action)
    }

    fn map(&self, memory: GpaRange) -> MemoryMap {
        self.as_ref().map(memory)
    }
}

/// The predictor, plus the actions of a host's VMM on top of its KVM.
#[derive(Clone, Debug)]
pub struct HostOracle {
    predictor: Predictor,
    maps_conversions: bool,
}

impl HostOracle {
    /// For a guest on a host whose KVM follows `design`. `module` is the one that its plan needs.
    pub fn new(
        host: HostProfile,
        design: &Design,
        guest: &Guest,
        module: Option<TdxModule>,
    ) -> HostOracle {
        HostOracle {
            predictor: Predictor::new(design, guest)
                .on_module(module.or(host.module))
                .whose_vmm_maps_conversions(host.maps_conversions),
            maps_conversions: host.maps_conversions,
        }
    }

    /// For the guest of a plan.
    pub fn of_plan(host: HostProfile, design: &Design, plan: &Plan) -> HostOracle {
        HostOracle::new(host, design, &plan.guest, plan.needs.module)
    }

    /// Makes those of plans on such a host.
    pub fn maker(
        host: HostProfile,
        design: &'static Design,
    ) -> impl Fn(&Plan) -> Box<dyn Oracle> + Sync + use<> {
        move |plan| Box::new(HostOracle::of_plan(host, design, plan))
    }

    /// The predictor, with the expected state of memory.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }
}

impl Oracle for HostOracle {
    fn foresee(&mut self, action: &Action) -> Result<Expectation, String> {
        let foreseen = match self.maps_conversions {
            true => mapped_conversion(&mut self.predictor, action),
            false => self.predictor.step(action),
        };
        foreseen.map_err(|error| format!("{error}; {}", error.advice))
    }

    fn map(&self, memory: GpaRange) -> MemoryMap {
        let mut extents = self.predictor.state_map(memory, MemoryMap::MAX_EXTENTS + 1);
        let cut = extents.len() > MemoryMap::MAX_EXTENTS;
        extents.truncate(MemoryMap::MAX_EXTENTS);
        MemoryMap { extents, cut }
    }
}

/// Prediction for a host whose VMM has KVM map what a guest has converted with MapGPA.
///
/// QEMU does so from 10.1 on: after the attributes have changed it requests the whole chunk with
/// KVM_PRE_FAULT_MEMORY, for conversions in both directions (`kvm_handle_hc_map_gpa_range()` in
/// target/i386/kvm/kvm.c; seen with 11.1.3). Memory converted implicitly, by an access, is not
/// mapped.
///
/// # Errors
///
/// The step cannot be predicted.
fn mapped_conversion(
    predictor: &mut Predictor,
    action: &Action,
) -> Result<Expectation, Unjudgeable> {
    let Action::One(Op::Convert { range, to, vcpu }) = *action else {
        return predictor.step(action);
    };
    let before = predictor.clone();
    let mut all: Option<Expectation> = None;
    for range in pieces(range, to) {
        let convert = Action::One(Op::Convert { range, to, vcpu });
        let piece = converted_and_mapped(predictor, &convert, range)
            .inspect_err(|_| predictor.clone_from(&before))?;
        all = Some(match all {
            None => piece,
            Some(all) => followed_by(all, piece),
        });
    }
    // A conversion of nothing is no plan.
    all.map_or_else(|| predictor.step(action), Ok)
}

/// The pieces of a conversion after each of which QEMU has KVM map it. KVM's chunks are 2M counted
/// from the start; where that is a 2M boundary, no chunk cuts a leaf of another and all go at once.
fn pieces(range: GpaRange, to: Side) -> Vec<GpaRange> {
    let step = PageLevel::Size2M.bytes();
    if to == Side::Shared || range.start().is_aligned(PageLevel::Size2M) {
        return vec![range];
    }
    let end = range.end().as_u64();
    let starts = (range.start().as_u64()..end).step_by(PageLevel::Size2M.bytes() as usize);
    starts
        .filter_map(|start| GpaRange::with_len(Gpa::new(start), step.min(end - start)))
        .collect()
}

/// A conversion of `range`, which is then mapped.
fn converted_and_mapped(
    predictor: &mut Predictor,
    convert: &Action,
    range: GpaRange,
) -> Result<Expectation, Unjudgeable> {
    let converted = predictor.step(convert)?;
    let mapped = predictor.step(&Action::One(Op::Prefault { range }))?;
    Ok(Expectation {
        errnos: converted.errnos.clone(),
        entries_at_most: converted.entries_at_most,
        map_gpa: converted.map_gpa,
        ..followed_by(converted, mapped)
    })
}

/// What two things in a row must show, as one.
fn followed_by(mut one: Expectation, other: Expectation) -> Expectation {
    one.td_alive &= other.td_alive;
    one.splits = one.splits + other.splits;
    one.split_leaves.extend(other.split_leaves);
    one.split_leaves.truncate(Expectation::MAX_SPLIT_LEAVES);
    one.pages.pages_4k = one.pages.pages_4k + other.pages.pages_4k;
    one.pages.pages_2m = one.pages.pages_2m + other.pages.pages_2m;
    one.pages.pages_1g = one.pages.pages_1g + other.pages.pages_1g;
    one.populated = other.populated;
    let entries = one.entries_at_most.zip(other.entries_at_most);
    one.entries_at_most = entries.map(|(one, other)| one + other);
    one
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::{Design, Guest, HostKind, Interval, LOW_BASE, Size, VcpuId};

    use super::*;

    /// Sixteen of 512 accepted pages there and back: shared and mapped, then private and pending.
    #[test]
    fn what_is_converted_is_mapped() {
        let memory = GpaRange::with_len(LOW_BASE, 16 << 20).unwrap();
        let guest = Guest::over(memory);
        let design = Design::named("stock").unwrap();
        let mut oracle = HostOracle::new(HostProfile::of(HostKind::Tdx), design, &guest, None);
        let vcpu = VcpuId(0);
        let range = memory.start().page(PageLevel::Size2M);
        let accept = |range| {
            Action::One(Op::Accept {
                range,
                size: Size::Size4K,
                vcpu,
            })
        };
        oracle.foresee(&accept(range)).unwrap();
        let some = GpaRange::with_len(Gpa::new(LOW_BASE.as_u64() + (1 << 20)), 64 << 10).unwrap();
        let mut convert = |to| {
            oracle
                .foresee(&Action::One(Op::Convert {
                    range: some,
                    to,
                    vcpu,
                }))
                .unwrap()
        };
        let shared = convert(Side::Shared);
        assert_eq!(
            shared.pages.pages_4k,
            Interval::exactly(0),
            "16 gone, 16 shared"
        );
        assert_eq!(shared.populated, Interval::exactly(512 - 16));
        assert!(shared.errnos.is_empty() && shared.map_gpa == Some(0));
        let private = convert(Side::Private);
        assert_eq!(
            private.pages.pages_4k,
            Interval::exactly(0),
            "16 shared gone, 16 pending"
        );
        assert_eq!(private.populated, Interval::exactly(512));
        let again = oracle.foresee(&accept(some)).unwrap();
        assert_eq!(
            again.pages.pages_4k,
            Interval::exactly(0),
            "they were pending"
        );
        assert_eq!(again.accept_exits, Interval::exactly(0));
    }

    /// Back to private off a 2M boundary: a chunk is mapped while the half of its last 2M is shared
    /// still, so only the first and the last leaf come back whole.
    #[test]
    fn each_chunk_is_mapped_before_the_next_is_converted() {
        let memory = GpaRange::with_len(LOW_BASE, 16 << 20).unwrap();
        let design = Design::named("headtail-attributes").unwrap();
        let host = HostProfile::of(HostKind::Tdx);
        let mut oracle = HostOracle::new(host, design, &Guest::over(memory), None);
        let start = Gpa::new(LOW_BASE.as_u64() + (1 << 20));
        let range = GpaRange::with_len(start, 8 << 20).unwrap();
        let mut convert = |to| {
            let vcpu = VcpuId(0);
            let action = Action::One(Op::Convert { range, to, vcpu });
            oracle.foresee(&action).unwrap()
        };
        assert_eq!(
            convert(Side::Shared).pages.pages_4k,
            Interval::exactly(2048)
        );
        let back = convert(Side::Private);
        assert_eq!(back.pages.pages_2m, Interval::exactly(2));
        assert_eq!(back.pages.pages_4k, Interval::exactly(3 * 512 - 2048));
    }
}
