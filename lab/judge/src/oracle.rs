//! Sources of predictions.

use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::{Action, Design, Expectation, Guest, HostProfile, Interval, MemoryMap, Op};
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
    /// For a guest on a host whose KVM follows `design`.
    pub fn new(host: HostProfile, design: &Design, guest: &Guest) -> HostOracle {
        HostOracle {
            predictor: Predictor::new(design, guest),
            maps_conversions: host.maps_conversions,
        }
    }

    /// Makes those of guests on such a host.
    pub fn maker(
        host: HostProfile,
        design: &'static Design,
    ) -> impl Fn(&Guest) -> Box<dyn Oracle> + Sync + use<> {
        move |guest| Box::new(HostOracle::new(host, design, guest))
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
    let Action::One(Op::Convert { range, .. }) = *action else {
        return predictor.step(action);
    };
    let before = predictor.clone();
    let converted = predictor.step(action)?;
    let mapped = predictor.step(&Action::One(Op::Prefault { range }));
    let mapped = mapped.inspect_err(|_| *predictor = before)?;
    let sum = |one: Interval, other: Interval| one + other;
    let mut both = converted;
    both.td_alive &= mapped.td_alive;
    both.splits = sum(both.splits, mapped.splits);
    both.split_leaves.extend(mapped.split_leaves);
    both.pages.pages_4k = sum(both.pages.pages_4k, mapped.pages.pages_4k);
    both.pages.pages_2m = sum(both.pages.pages_2m, mapped.pages.pages_2m);
    both.pages.pages_1g = sum(both.pages.pages_1g, mapped.pages.pages_1g);
    both.populated = mapped.populated;
    Ok(both)
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::{Design, Guest, HostKind, LOW_BASE, Side, Size, VcpuId};
    use tdxlab_protocol::addr::{Gpa, PageLevel};

    use super::*;

    /// Sixteen of 512 accepted pages there and back: shared and mapped, then private and pending.
    #[test]
    fn what_is_converted_is_mapped() {
        let memory = GpaRange::with_len(LOW_BASE, 16 << 20).unwrap();
        let guest = Guest::over(memory);
        let design = Design::named("stock").unwrap();
        let mut oracle = HostOracle::new(HostProfile::of(HostKind::Tdx), design, &guest);
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
}
