//! Commands whose generated types cannot be sent or received, and those that hosts send as they are.
//!
//! `qapi`'s `query_stats` cannot be serialised for the target `vm`: its arguments are an internally
//! tagged enum whose `vm` variant holds a bare list. Its answers name providers by an enum that
//! ends with the schema it was generated from.

pub use qapi::qmp::{pmemsave, query_chardev, system_powerdown};
use serde::{Deserialize, Serialize};

/// `query-stats` for the VM as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct QueryVmStats {
    target: &'static str,
    providers: [Provider; 1],
}

#[derive(Clone, Debug, Serialize)]
struct Provider {
    provider: &'static str,
    names: Vec<&'static str>,
}

impl QueryVmStats {
    /// Asks KVM for these statistics, by the kernel's names.
    pub fn of_kvm(names: &[&'static str]) -> QueryVmStats {
        QueryVmStats {
            target: "vm",
            providers: [Provider {
                provider: "kvm",
                names: names.to_vec(),
            }],
        }
    }
}

impl qapi::Command for QueryVmStats {
    type Ok = Vec<VmStats>;
    const NAME: &'static str = "query-stats";
    const ALLOW_OOB: bool = false;
}

/// Statistics of a VM from one provider.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VmStats {
    /// Name of the provider.
    pub provider: String,
    /// The statistics, by name.
    pub stats: Vec<Stat>,
}

/// One statistic.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Stat {
    /// The kernel's name for it.
    pub name: String,
    /// A number, a truth value or a list.
    pub value: qapi::Any,
}

/// `query-status`, with the run state as text: a later QEMU may know more of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueryStatus {}

impl qapi::Command for QueryStatus {
    type Ok = Status;
    const NAME: &'static str = "query-status";
    const ALLOW_OOB: bool = false;
}

/// Whether vCPUs run, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the vCPUs run.
    pub running: bool,
    /// `running`, `paused`, `internal-error`, ...
    pub status: String,
}

/// `query-cpus-fast`, as far as the lab needs it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueryCpus {}

impl qapi::Command for QueryCpus {
    type Ok = Vec<CpuThread>;
    const NAME: &'static str = "query-cpus-fast";
    const ALLOW_OOB: bool = false;
}

/// Starts an outgoing migration: the monitor's only way to have KVM log dirty pages for as long as
/// one likes.
#[derive(Clone, Debug, Serialize)]
pub struct Migrate {
    /// Where to, such as `unix:PATH`.
    pub uri: String,
}

impl qapi::Command for Migrate {
    type Ok = qapi::Empty;
    const NAME: &'static str = "migrate";
    const ALLOW_OOB: bool = false;
}

/// `migrate-set-parameters`, as far as the lab needs it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SetMigrationBandwidth {
    /// Bytes per second.
    #[serde(rename = "max-bandwidth")]
    pub max_bandwidth: u64,
}

impl qapi::Command for SetMigrationBandwidth {
    type Ok = qapi::Empty;
    const NAME: &'static str = "migrate-set-parameters";
    const ALLOW_OOB: bool = false;
}

/// `query-migrate`, with the status as text.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueryMigrate {}

impl qapi::Command for QueryMigrate {
    type Ok = Migration;
    const NAME: &'static str = "query-migrate";
    const ALLOW_OOB: bool = false;
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Migration {
    /// `setup`, `active`, `cancelled`, ...; `None` where there never was one.
    pub status: Option<String>,
    /// Error text of a failed migration.
    #[serde(rename = "error-desc")]
    pub error: Option<String>,
}

/// `qom-set` of a number. The generated type wants a value of any type in its own schema's words.
#[derive(Clone, Debug, Serialize)]
pub struct SetNumber {
    path: String,
    property: &'static str,
    value: u64,
}

impl SetNumber {
    /// Sets a property of the device `id`.
    pub fn of(id: &str, property: &'static str, value: u64) -> SetNumber {
        SetNumber {
            path: format!("/machine/peripheral/{id}"),
            property,
            value,
        }
    }
}

impl qapi::Command for SetNumber {
    type Ok = qapi::Empty;
    const NAME: &'static str = "qom-set";
    const ALLOW_OOB: bool = false;
}

/// `qom-get` of a number.
#[derive(Clone, Debug, Serialize)]
pub struct GetNumber {
    path: String,
    property: &'static str,
}

impl GetNumber {
    /// Asks for a property of the device `id`.
    pub fn of(id: &str, property: &'static str) -> GetNumber {
        GetNumber {
            path: format!("/machine/peripheral/{id}"),
            property,
        }
    }
}

impl qapi::Command for GetNumber {
    type Ok = u64;
    const NAME: &'static str = "qom-get";
    const ALLOW_OOB: bool = false;
}

/// A vCPU and the host thread that runs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CpuThread {
    /// The vCPU.
    #[serde(rename = "cpu-index")]
    pub cpu_index: u16,
    /// Where its properties and per-vCPU statistics are.
    #[serde(rename = "qom-path")]
    pub qom_path: String,
    /// Thread id of the vCPU.
    #[serde(rename = "thread-id")]
    pub thread_id: u32,
}

/// `human-monitor-command`: what only the monitor for people can do.
#[derive(Clone, Debug, Serialize)]
pub struct HumanMonitor {
    #[serde(rename = "command-line")]
    command: String,
}

impl HumanMonitor {
    /// Wraps a command line of the human monitor.
    pub fn new(command: String) -> HumanMonitor {
        HumanMonitor { command }
    }
}

impl qapi::Command for HumanMonitor {
    type Ok = String;
    const NAME: &'static str = "human-monitor-command";
    const ALLOW_OOB: bool = false;
}
