//! States of the TD as a whole, and the calls allowed in each.

use super::seamcall::Seamcall;

/// TDCS.OP_STATE: how far the TD is in its life between keys and teardown.
///
/// Source: `auto_gen_1_5/op_state_lookup.c`; the numbers are the module's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpState {
    /// Before TDH.MNG.INIT.
    Uninitialized,
    /// Being built: pages are added, no vCPU runs.
    #[default]
    Initialized,
    /// After TDH.MR.FINALIZE.
    Runnable,
    /// Exported while it runs.
    LiveExport,
    /// Exported, paused.
    PausedExport,
    /// Exported.
    PostExport,
    /// Imported: memory.
    MemoryImport,
    /// Imported: state.
    StateImport,
    /// Imported, out of order.
    PostImport,
    /// Imported while it runs.
    LiveImport,
    /// An import that failed.
    FailedImport,
    /// An import that begins.
    StartImport,
}

impl OpState {
    const ALL: [OpState; 12] = [
        OpState::Uninitialized,
        OpState::Initialized,
        OpState::Runnable,
        OpState::LiveExport,
        OpState::PausedExport,
        OpState::PostExport,
        OpState::MemoryImport,
        OpState::StateImport,
        OpState::PostImport,
        OpState::LiveImport,
        OpState::FailedImport,
        OpState::StartImport,
    ];

    /// The state with this number, if there is one.
    pub fn from_number(number: u64) -> Option<OpState> {
        OpState::ALL
            .into_iter()
            .find(|state| state.number() == number)
    }

    /// Number of the state.
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// Whether vCPUs may run and hold translations, so that pages must be blocked and tracked before
    /// they change.
    pub(super) const fn needs_tracking(self) -> bool {
        matches!(
            self,
            OpState::Runnable | OpState::LiveExport | OpState::LiveImport
        )
    }

    /// Whether the TD is being imported: removed pages are tracked.
    pub(super) const fn is_import(self) -> bool {
        matches!(
            self,
            OpState::MemoryImport
                | OpState::StateImport
                | OpState::PostImport
                | OpState::LiveImport
        )
    }

    /// Whether the call is allowed.
    pub(super) const fn allows(self, call: Seamcall) -> bool {
        use OpState::{
            FailedImport, Initialized, LiveExport, LiveImport, MemoryImport, PausedExport,
            PostExport, PostImport, Runnable, StateImport,
        };
        match call {
            Seamcall::PageAdd => matches!(self, Initialized),
            Seamcall::PageAug => matches!(self, Initialized | Runnable | LiveExport | LiveImport),
            Seamcall::SeptAdd => matches!(
                self,
                Initialized
                    | Runnable
                    | LiveExport
                    | MemoryImport
                    | StateImport
                    | PostImport
                    | LiveImport
            ),
            Seamcall::RangeBlock
            | Seamcall::RangeUnblock
            | Seamcall::PageDemote
            | Seamcall::PagePromote
            | Seamcall::PageRelocate => matches!(
                self,
                Initialized
                    | Runnable
                    | LiveExport
                    | PausedExport
                    | PostExport
                    | PostImport
                    | LiveImport
            ),
            Seamcall::PageRemove => matches!(
                self,
                Initialized
                    | Runnable
                    | LiveExport
                    | PausedExport
                    | PostExport
                    | PostImport
                    | LiveImport
                    | FailedImport
            ),
            Seamcall::Track => !matches!(
                self,
                OpState::Uninitialized | FailedImport | OpState::StartImport
            ),
            Seamcall::SeptRead | Seamcall::SeptRemove => {
                !matches!(self, OpState::Uninitialized | OpState::StartImport)
            }
            // They are no calls on a TD.
            Seamcall::PamtAdd | Seamcall::PamtRemove => true,
        }
    }
}

/// TDR.LIFECYCLE_STATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// Has a key id.
    HkidAssigned,
    /// Its keys are configured: it may be built and run.
    #[default]
    KeysConfigured,
    /// No vCPU may run any more.
    Blocked,
    /// Its pages can be taken back.
    Teardown,
}

impl Lifecycle {
    /// The state with this number, if there is one.
    pub const fn from_number(number: u64) -> Option<Lifecycle> {
        match number {
            0 => Some(Lifecycle::HkidAssigned),
            1 => Some(Lifecycle::KeysConfigured),
            2 => Some(Lifecycle::Blocked),
            3 => Some(Lifecycle::Teardown),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_module() {
        for (number, state) in (0..).zip(OpState::ALL) {
            assert_eq!(state.number(), number);
            assert_eq!(OpState::from_number(number), Some(state));
        }
        assert_eq!(OpState::from_number(12), None);
        assert_eq!(Lifecycle::from_number(4), None);
    }
}
