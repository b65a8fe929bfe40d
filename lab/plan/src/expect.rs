//! Expectations of a step written by the scenario's author.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdxlab_protocol::tdcall::status;

use crate::op::{Action, Kind, Op};

/// What a scenario's author expects of a step. Absent means: whatever the predictor says. A value
/// must agree with the predictor, else the scenario is rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Split events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splits: Option<u64>,
    /// Change of `pages_4k`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_4k: Option<i64>,
    /// Change of `pages_2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_2m: Option<i64>,
    /// Change of `pages_1g`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages_1g: Option<i64>,
    /// VM exits of type ACCEPT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_exits: Option<u64>,
    /// The one status every ACCEPT of the step returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ExpectStatus>,
    /// How the host call ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<ExpectErrno>,
    /// R10 of the step's MapGPA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_gpa: Option<ExpectMapGpa>,
    /// Whether the TD survives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub td: Option<ExpectTd>,
    /// Most S-EPT entries looked at to decide the splits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries_at_most: Option<u64>,
}

impl Expect {
    /// Whether the author wrote nothing.
    pub fn is_empty(&self) -> bool {
        *self == Expect::default()
    }

    /// The keys that are about something which `action` does not do, and what that is.
    pub fn misfits(&self, action: &Action) -> Vec<(&'static str, &'static str)> {
        let any = |wanted: fn(&Op) -> bool| action.ops().any(wanted);
        let accepts = any(|op| matches!(op, Op::Accept { .. } | Op::Release { .. }));
        let calls =
            any(|op| matches!(op.kind(), Kind::Host(_)) || matches!(op, Op::DirtyLog { .. }));
        let converts = any(|op| matches!(op, Op::Convert { .. }));
        [
            ("status", "ACCEPTs", self.status.is_some() && !accepts),
            (
                "map_gpa",
                "conversions",
                self.map_gpa.is_some() && !converts,
            ),
            ("errno", "host calls", self.errno.is_some() && !calls),
        ]
        .into_iter()
        .filter_map(|(key, what, misfit)| misfit.then_some((key, what)))
        .collect()
    }
}

/// A status by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectStatus {
    /// TDX_SUCCESS.
    Success,
    /// TDX_PAGE_ALREADY_ACCEPTED.
    AlreadyAccepted,
    /// TDX_PAGE_SIZE_MISMATCH.
    SizeMismatch,
    /// TDX_OPERAND_INVALID.
    OperandInvalid,
}

impl ExpectStatus {
    /// Whether a raw status (RAX) has this name, whatever its detail.
    pub fn is(self, status: u64) -> bool {
        let class = match self {
            ExpectStatus::Success => status::SUCCESS,
            ExpectStatus::AlreadyAccepted => status::PAGE_ALREADY_ACCEPTED,
            ExpectStatus::SizeMismatch => status::PAGE_SIZE_MISMATCH,
            ExpectStatus::OperandInvalid => status::OPERAND_INVALID,
        };
        status & status::CLASS_MASK == class
    }
}

/// What the guest gets for a MapGPA, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectMapGpa {
    /// TDVMCALL_STATUS_SUCCESS.
    Success,
    /// TDVMCALL_STATUS_RETRY, however often the guest asks again.
    Retry,
    /// TDVMCALL_STATUS_INVALID_OPERAND.
    InvalidOperand,
    /// TDVMCALL_STATUS_ALIGN_ERROR.
    AlignError,
}

/// How a host call ends, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExpectErrno {
    /// It succeeds.
    #[serde(rename = "ok")]
    Ok,
    /// EINVAL.
    EINVAL,
    /// ENOMEM.
    ENOMEM,
    /// EFAULT.
    EFAULT,
    /// EAGAIN.
    EAGAIN,
    /// ENOTTY.
    ENOTTY,
}

/// Whether the TD survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExpectTd {
    /// It lives.
    Alive,
    /// The host or the module ends it.
    Killed,
}
