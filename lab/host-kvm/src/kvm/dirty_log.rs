//! Logging dirty pages.
//!
//! QEMU has no command for it, but a migration starts it (`memory_global_dirty_log_start()`). So
//! one is started at a byte a second, to a socket that is never read: it sends its header and
//! stalls until it is cancelled.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use tdxlab_host::vm::Vm;
use tdxlab_host::{HostError, OnHost};
use tdxlab_plan::HostKind;
use tdxlab_qemu::QemuError;
use tdxlab_qemu::qmp::commands::{Migrate, Migration, QueryMigrate, SetMigrationBandwidth};

/// Interval of polling the migration's state.
const TICK: Duration = Duration::from_millis(5);

/// Dirty logging that is on. The stream is kept so that the migration does not fail.
#[derive(Debug)]
pub(super) struct DirtyLog {
    _stream: UnixStream,
}

impl DirtyLog {
    /// Has KVM log the dirty pages of all memory slots.
    pub(super) fn start(vm: &mut Vm, until: Instant) -> Result<DirtyLog, HostError> {
        let system = |doing: &str| {
            let doing = doing.to_owned();
            move |source| HostError::System { doing, source }
        };
        // A private socket path, removed as soon as QEMU has connected.
        let folder = tempfile::tempdir().map_err(system("making a folder for a socket"))?;
        let path = folder.path().join("nowhere");
        let listener = UnixListener::bind(&path).map_err(system("listening on a socket"))?;
        listener
            .set_nonblocking(true)
            .map_err(system("listening on a socket"))?;
        ask(vm, &SetMigrationBandwidth { max_bandwidth: 1 }, until)?;
        ask(
            vm,
            &Migrate {
                uri: format!("unix:{}", path.display()),
            },
            until,
        )?;
        let mut stream = None;
        loop {
            if stream.is_none() {
                stream = listener.accept().ok().map(|(stream, _)| stream);
            }
            let migration = ask(vm, &QueryMigrate {}, until)?;
            match (migration.status.as_deref(), stream.take()) {
                (Some("active"), Some(stream)) => return Ok(DirtyLog { _stream: stream }),
                (Some("none" | "setup" | "active") | None, accepted) if Instant::now() < until => {
                    stream = accepted;
                }
                _ => return Err(strange(&migration)),
            }
            std::thread::sleep(TICK);
        }
    }

    /// Ends it. When this returns, KVM has stopped logging.
    pub(super) fn stop(self, vm: &mut Vm, until: Instant) -> Result<(), HostError> {
        ask(vm, &qapi::qmp::migrate_cancel {}, until)?;
        loop {
            let migration = ask(vm, &QueryMigrate {}, until)?;
            match migration.status.as_deref() {
                Some("cancelled") => return Ok(()),
                Some("active" | "cancelling" | "device") if Instant::now() < until => {
                    std::thread::sleep(TICK);
                }
                _ => return Err(strange(&migration)),
            }
        }
    }
}

fn ask<C: qapi::Command>(vm: &mut Vm, command: &C, until: Instant) -> Result<C::Ok, HostError> {
    let ticket = vm
        .qmp()
        .send(command)
        .map_err(|error| QemuError::from(error).on(HostKind::Kvm))?;
    vm.answer(&ticket, until, "asking QEMU to log dirty pages")
}

fn strange(migration: &Migration) -> HostError {
    HostError::Qemu {
        what: format!(
            "did not begin or end to log dirty pages: its migration is {:?}{}",
            migration.status.as_deref().unwrap_or("not there"),
            migration
                .error
                .as_ref()
                .map(|error| format!(": {error}"))
                .unwrap_or_default()
        ),
        advice: "the QMP trace in the scenario's folder shows what was asked".to_owned(),
    }
}
