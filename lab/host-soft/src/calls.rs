//! Calls of an operation to the software KVM.

use tdxlab_host::HostError;
use tdxlab_plan::addr::GpaRange;
use tdxlab_plan::{HostOp, Kind, Op, SlotChange, VmOp, VmmAnswer};
use tdxlab_protocol::message::Task;
use tdxlab_qemu::agent::request;
use tdxlab_softkvm::{Answer, HostCall, PhysicalMemory, SoftKvm};

/// An operation, in the pieces in which it is done.
#[derive(Debug)]
pub(crate) enum Work {
    /// Tasks of the guest, in order.
    Guest(Vec<Task>),
    /// Calls of the host, in order.
    Host(Vec<HostCall>),
}

/// The pieces of an operation; `reads` are the ranges that a verify reads.
///
/// # Errors
///
/// It is one for plain VMs, which the software KVM does not run.
pub(crate) fn work<M: PhysicalMemory>(
    kvm: &SoftKvm<M>,
    op: &Op,
    reads: &[GpaRange],
) -> Result<Work, HostError> {
    match op.kind() {
        Kind::Guest(vcpu, op) => Ok(Work::Guest(request::tasks(vcpu, op, reads))),
        Kind::Host(op) => Ok(Work::Host(calls(kvm, op))),
        Kind::Vm(VmOp::DirtyLog(on)) => Ok(Work::Host(vec![HostCall::LogDirtyPages { on }])),
        Kind::Vm(VmOp::Stop | VmOp::Cont) => Err(HostError::for_plain_vms_only()),
    }
}

/// One call per piece of the guest_memfd.
fn calls<M: PhysicalMemory>(kvm: &SoftKvm<M>, op: HostOp) -> Vec<HostCall> {
    let pieces = |range, call: &dyn Fn(u64, u64) -> HostCall| {
        let pieces = kvm.gmem_pieces(range).into_iter();
        pieces.map(|(offset, len)| call(offset, len)).collect()
    };
    match op {
        HostOp::Punch(range) => pieces(range, &|offset, len| HostCall::Punch { offset, len }),
        HostOp::Allocate(range) => pieces(range, &|offset, len| HostCall::Allocate { offset, len }),
        HostOp::SetAttributes(range, to) => pieces(range, &|offset, len| HostCall::SetAttributes {
            offset,
            len,
            to,
        }),
        HostOp::Prefault(range) => vec![HostCall::Prefault { range }],
        HostOp::Pin(range) => vec![HostCall::Pin { range }],
        HostOp::Unpin(range) => vec![HostCall::Unpin { range }],
        HostOp::Slot(range, SlotChange::Delete) => vec![HostCall::DeleteSlot { range }],
        HostOp::Slot(range, SlotChange::Add) => vec![HostCall::AddSlot { range }],
        HostOp::Conversions(range, answer) => {
            let answer = match answer {
                VmmAnswer::Serve => Answer::Serve,
                VmmAnswer::Delay => Answer::Delay,
                VmmAnswer::Refuse => Answer::Refuse,
            };
            vec![HostCall::Conversions { range, answer }]
        }
    }
}
