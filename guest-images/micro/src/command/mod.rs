//! The commands of [`tdxlab_protocol::message::Command`].

mod accept;
mod access;
mod convert;
mod probe;
mod results;
mod verify;

use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{AcceptSize, AccessKind, Command, Counts, Refusal, Reply, Task};

use crate::vcpu::this;
use crate::window::Instruction;
use crate::{serial, window};
use results::Results;

/// Runs a task that [`check`] has let pass, on this vCPU, and sends its results.
pub(crate) fn run(id: u32, task: &Task) {
    this().counts.set(Counts::default());
    let mut results = Results::new(id);
    match task.command {
        Command::Accept { range, size } => accept::run(range, size, &mut results),
        Command::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            same_rip,
        } => {
            let instruction = match same_rip {
                true => Instruction::Same,
                false => Instruction::Next,
            };
            let access = |gpa| match access {
                AccessKind::Read => window::load(gpa, side, instruction).map(|_| ()),
                AccessKind::Write => window::add_zero(gpa, side, instruction),
            };
            access::touch(range, stride, side, on_ve, access, &mut results);
        }
        Command::Fill {
            range,
            generation,
            side,
        } => access::fill(range, generation, side, &mut results),
        Command::Verify { range, side } => verify::run(range, side, &mut results),
        Command::Convert { range, to } => convert::run(range, to, &mut results),
        Command::Probe { range, stride } => probe::run(range, stride, &mut results),
        Command::Release { range, level } => accept::release(range, level, &mut results),
    }
    results.send();
    serial::send(&Reply::Finished {
        id,
        vcpu: this().id(),
        counts: this().counts.get(),
    });
}

/// Returns why a task cannot be run.
pub(crate) fn check(task: &Task) -> Result<(), Refusal> {
    let (range, step, needs_tdcall) = match task.command {
        Command::Accept {
            range,
            size: AcceptSize::Exactly(level),
        } => (range, level, true),
        Command::Accept { range, .. } => (range, PageLevel::Size4K, true),
        Command::Touch { range, stride, .. } => (range, stride, false),
        Command::Fill { range, .. } | Command::Verify { range, .. } => {
            (range, PageLevel::Size4K, false)
        }
        Command::Convert { range, .. } => (range, PageLevel::Size4K, true),
        Command::Probe { range, stride } => (range, stride, true),
        Command::Release { range, level } => (range, level, true),
    };
    if needs_tdcall && !window::answer_tdcall() {
        return Err(Refusal::NoTdcall(task.vcpu));
    }
    // Whether MapGPA takes what is not made of pages is for the VMM to say.
    let any = matches!(task.command, Command::Convert { .. }) && !range.is_empty();
    if !(any || is_whole(range, step)) || !window::holds(range) {
        return Err(Refusal::BadRange(range));
    }
    Ok(())
}

/// Whether a range starts on a page and is a multiple of the step. It need not be aligned to the
/// step, so that the TDX module's answer for such addresses can be tested.
fn is_whole(range: GpaRange, step: PageLevel) -> bool {
    range.start().is_aligned(PageLevel::Size4K) && range.bytes().is_multiple_of(step.bytes())
}
