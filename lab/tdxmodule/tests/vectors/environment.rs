//! Steps that are not calls: vCPUs, interrupts, locks held by others, states of the TD.

use tdxlab_protocol::addr::Gpa;
use tdxlab_tdxmodule::{Hold, Level, Lifecycle, Lock, OpState, Pfn, Platform};

use crate::bench::{Bench, Did};
use crate::machine::Memory;
use crate::words::{Gap, level, number};

impl Bench {
    /// Steps of the environment; `None` for calls and accesses.
    pub(crate) fn environment(&mut self, op: &str, given: &[&str]) -> Result<Option<Did>, Gap> {
        match op {
            "finalize" => self.hardware.finalize(),
            // vCPUs outside of the guest stay there.
            "kick" => self.each_vcpu(given, |hardware, vcpu| {
                if hardware.is_inside(vcpu) {
                    hardware.enter(vcpu);
                }
            })?,
            "leave" => self.each_vcpu(given, Platform::leave)?,
            "enter" => self.each_vcpu(given, |hardware, vcpu| {
                if !hardware.is_inside(vcpu) {
                    hardware.enter(vcpu);
                }
            })?,
            "intr" => {
                let after = given.first().and_then(|after| after.parse::<i64>().ok());
                let after = after.ok_or_else(|| Gap(format!("intr {given:?}")))?;
                self.hardware.set_interrupt(u64::try_from(after).ok());
            }
            "lock" => self.lock(given, true)?,
            "unlock" => self.lock(given, false)?,
            "set" => self.set(given)?,
            _ => return Ok(None),
        }
        Ok(Some(Did::of("(env)")))
    }

    /// Does it for the vCPU named, or for all.
    fn each_vcpu(
        &mut self,
        given: &[&str],
        mut act: impl FnMut(&mut Platform<Memory>, usize),
    ) -> Result<(), Gap> {
        let all = 0..usize::from(self.options.vcpus);
        let vcpus = match given {
            [] => all,
            [vcpu, ..] => {
                let vcpu: usize = vcpu.parse().map_err(|_| Gap(format!("vCPU {vcpu}")))?;
                if !all.contains(&vcpu) {
                    return Err(Gap(format!("vCPU {vcpu} does not exist")));
                }
                vcpu..vcpu + 1
            }
        };
        vcpus.for_each(|vcpu| act(&mut self.hardware, vcpu));
        Ok(())
    }

    fn set(&mut self, given: &[&str]) -> Result<(), Gap> {
        let unknown = || Gap(format!("set {given:?}"));
        let value = given.get(1).ok_or_else(unknown)?;
        let decimal = value.parse::<u64>().ok();
        match given[0] {
            "opstate" => {
                let state = decimal.and_then(OpState::from_number).ok_or_else(unknown)?;
                self.hardware.set_op_state(state);
            }
            "lifecycle" => {
                let state = decimal
                    .and_then(Lifecycle::from_number)
                    .ok_or_else(unknown)?;
                self.hardware.set_lifecycle(state);
            }
            "fatal" => self.hardware.set_fatal(),
            "rip" => self.hardware.set_rip(0, number(given, 1)?),
            // An L2 VM without pages does not affect these calls, so none is modelled.
            "l2vms" => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn lock(&mut self, given: &[&str], take: bool) -> Result<(), Gap> {
        let name = given.first().copied().unwrap_or_default();
        let frame = || number(given, 1).map(|hpa| Pfn(hpa >> 12));
        let entry =
            || -> Result<(Gpa, Level), Gap> { Ok((Gpa::new(number(given, 1)?), level(given, 2)?)) };
        match name {
            "entry" if take => {
                let (gpa, level) = entry()?;
                self.hardware.hold_entry(gpa, level);
                return Ok(());
            }
            "entry" => {
                let (gpa, level) = entry()?;
                self.hardware.let_entry_go(gpa, level);
                return Ok(());
            }
            "hp" if take => {
                let (gpa, level) = entry()?;
                self.hardware.flag_entry(gpa, level);
                return Ok(());
            }
            "tree_hp" if take => {
                self.hardware.flag_tree();
                return Ok(());
            }
            _ => {}
        }
        let (lock, hold) = match name {
            "tree_ex" => (Lock::Tree, Hold::Exclusive),
            "tree_sh" => (Lock::Tree, Hold::Shared),
            "epoch_ex" => (Lock::Epoch, Hold::Exclusive),
            "epoch_sh" => (Lock::Epoch, Hold::Shared),
            "opstate_ex" => (Lock::OpState, Hold::Exclusive),
            "opstate_sh" => (Lock::OpState, Hold::Shared),
            "tdr_ex" => (Lock::Tdr, Hold::Exclusive),
            "tdr_sh" => (Lock::Tdr, Hold::Shared),
            "hpa2m" => (Lock::Pamt2m(frame()?), Hold::Exclusive),
            "hpa2m_sh" => (Lock::Pamt2m(frame()?), Hold::Shared),
            "hpa4k" => (Lock::Pamt4k(frame()?), Hold::Exclusive),
            "hpa4k_sh" => (Lock::Pamt4k(frame()?), Hold::Shared),
            _ => return Err(Gap(format!("lock {given:?}"))),
        };
        if take {
            self.hardware.hold(lock, hold);
        } else {
            self.hardware.let_go(lock, hold);
        }
        Ok(())
    }
}
