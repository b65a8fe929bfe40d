//! Text of the order in which parallel operations took turns.

use tdxlab_plan::VcpuId;
use tdxlab_qemu::head_tail::HeadTail;

/// Turns kept from the beginning and from the end.
const TURNS_KEPT: (usize, usize) = (1024, 7168);

/// Start of a round, or the party that advanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A round began with so many branches.
    Round(usize),
    Vcpu(VcpuId),
    HostCall,
}

impl Turn {
    fn write(self, text: &mut String) {
        match self {
            Turn::Round(branches) => text.push_str(&format!("\nround of {branches}:")),
            Turn::Vcpu(vcpu) => text.push_str(&format!(" vcpu{}", vcpu.0)),
            Turn::HostCall => text.push_str(" host"),
        }
    }
}

/// The resulting order.
#[derive(Debug)]
pub(super) struct Schedule(pub(super) HeadTail<Turn>);

impl Schedule {
    pub(super) fn new() -> Schedule {
        Schedule(HeadTail::new(TURNS_KEPT.0, TURNS_KEPT.1))
    }

    /// One round per line; `None` without parallel operations.
    pub(super) fn to_text(&self) -> Option<String> {
        let mut text = String::new();
        for turn in self.0.head() {
            turn.write(&mut text);
        }
        if self.0.left_out() > 0 {
            text.push_str(&format!("\n[{} turns left out]\n", self.0.left_out()));
        }
        for turn in self.0.tail() {
            turn.write(&mut text);
        }
        (!text.is_empty()).then(|| text.trim_start().to_owned() + "\n")
    }
}
