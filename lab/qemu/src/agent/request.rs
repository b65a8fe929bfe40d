//! Guest tasks of an operation of a plan.

use tdxlab_plan::{GuestOp, Size, VcpuId};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{AcceptSize, Command, Task};

/// The tasks of a guest operation, in order.
///
/// `reads` are the ranges of a verify; other operations contain their range.
pub fn tasks(vcpu: VcpuId, op: GuestOp, reads: &[GpaRange]) -> Vec<Task> {
    let task = |command| vec![Task { vcpu, command }];
    match op {
        GuestOp::Accept { range, size } => task(Command::Accept {
            range,
            size: accept_size(size),
        }),
        GuestOp::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            same_rip,
        } => task(Command::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            same_rip,
        }),
        GuestOp::Fill {
            range,
            generation,
            side,
        } => task(Command::Fill {
            range,
            generation,
            side,
        }),
        GuestOp::Verify { side, .. } => reads
            .iter()
            .map(|&range| Task {
                vcpu,
                command: Command::Verify { range, side },
            })
            .collect(),
        GuestOp::Convert { range, to } => task(Command::Convert { range, to }),
        GuestOp::Probe { range, stride } => task(Command::Probe { range, stride }),
        GuestOp::Release { range, level } => task(Command::Release { range, level }),
    }
}

fn accept_size(size: Size) -> AcceptSize {
    match size {
        Size::Size4K => AcceptSize::Exactly(PageLevel::Size4K),
        Size::Size2M => AcceptSize::Exactly(PageLevel::Size2M),
        Size::Size1G => AcceptSize::Exactly(PageLevel::Size1G),
        Size::Linux => AcceptSize::Linux,
    }
}

/// Text of a command for a message: `accepting 0x40000000..0x40200000`.
pub fn describe(command: &Command) -> String {
    match command {
        Command::Accept { range, size } => match size {
            AcceptSize::Exactly(level) => format!("accepting {range} at {level}"),
            AcceptSize::Linux => format!("accepting {range} as Linux does"),
        },
        Command::Touch { range, .. } => format!("touching {range}"),
        Command::Fill { range, .. } => format!("filling {range}"),
        Command::Verify { range, .. } => format!("verifying {range}"),
        Command::Convert { range, to, .. } => {
            format!("converting {range} to {to:?}").to_lowercase()
        }
        Command::Probe { range, .. } => format!("probing {range}"),
        Command::Release { range, level } => format!("releasing {range} at {level}"),
    }
}
