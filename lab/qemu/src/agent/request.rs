//! What an operation of a plan asks of the guest.

use tdxlab_plan::{Op, Size};
use tdxlab_protocol::addr::{GpaRange, PageLevel};
use tdxlab_protocol::message::{AcceptSize, Command, Task};

/// The tasks of a guest operation, one after the other; `None` for operations of the host.
///
/// `reads` are the ranges a verify reads; other operations have a range of their own.
pub fn tasks(op: &Op, reads: &[GpaRange]) -> Option<Vec<Task>> {
    let task = |vcpu, command| Some(vec![Task { vcpu, command }]);
    match *op {
        Op::Accept { range, size, vcpu } => task(
            vcpu,
            Command::Accept {
                range,
                size: accept_size(size),
            },
        ),
        Op::Touch {
            range,
            stride,
            access,
            side,
            on_ve,
            vcpu,
        } => task(
            vcpu,
            Command::Touch {
                range,
                stride,
                access,
                side,
                on_ve,
            },
        ),
        Op::Fill {
            range,
            generation,
            side,
            vcpu,
        } => task(
            vcpu,
            Command::Fill {
                range,
                generation,
                side,
            },
        ),
        Op::Verify { side, vcpu, .. } => Some(
            reads
                .iter()
                .map(|&range| Task {
                    vcpu,
                    command: Command::Verify { range, side },
                })
                .collect(),
        ),
        Op::Convert { range, to, vcpu } => task(vcpu, Command::Convert { range, to }),
        Op::Probe {
            range,
            stride,
            vcpu,
        } => task(vcpu, Command::Probe { range, stride }),
        Op::Punch { .. }
        | Op::Prefault { .. }
        | Op::Allocate { .. }
        | Op::DirtyLog { .. }
        | Op::Stop
        | Op::Cont => None,
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

/// What a command does, for a message: `accepting 0x40000000..0x40200000`.
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
    }
}
