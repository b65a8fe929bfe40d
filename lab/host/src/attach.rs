//! Attaching to a held guest: a second QMP monitor and a gdb stub on Unix sockets.
//!
//! The lab itself talks to QEMU over inherited sockets, out of reach for other processes.
//! To keep a guest after a failure, QEMU gets a second monitor on a named socket.

use std::path::PathBuf;
use std::time::Duration;

use tdxlab_qemu::Line;
use tdxlab_qemu::qmp::commands::HumanMonitor;

use super::vm::Vm;
use crate::error::HostError;

/// How long the monitor may take to start the gdb stub.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folder with the sockets, removed with the session.
#[derive(Debug)]
pub struct Attachment {
    folder: tempfile::TempDir,
}

/// Whether a debugger can attach to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GdbStub {
    /// QEMU has a gdb stub for it.
    Stub,
    /// It is a TD.
    Closed,
}

impl Attachment {
    /// Makes the folder, with a path short enough for a socket, if `wanted`.
    pub fn if_wanted(wanted: bool) -> Result<Option<Attachment>, HostError> {
        let made = wanted.then(|| tempfile::Builder::new().prefix("tdxlab-").tempdir());
        let folder = made.transpose().map_err(|source| HostError::System {
            doing: "making a folder for sockets".into(),
            source,
        })?;
        Ok(folder.map(|folder| Attachment { folder }))
    }

    /// The socket of the second QMP monitor.
    pub fn monitor(&self) -> Line {
        Line::Listen(self.path("qmp.sock"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the gdb stub, where possible, and returns how to attach: label and command.
    pub fn open(&self, vm: &mut Vm, debugger: GdbStub) -> Vec<(String, String)> {
        let line = |what: &str, how: String| (what.to_owned(), how);
        let gdb = match debugger {
            GdbStub::Stub => self.stub(vm),
            GdbStub::Closed => {
                "none: a TD shows neither its registers nor its private memory to QEMU".to_owned()
            }
        };
        vec![
            line("QEMU", format!("process {}", vm.process().pid())),
            line(
                "QMP",
                format!("socat - UNIX-CONNECT:{}", self.path("qmp.sock").display()),
            ),
            line("gdb", gdb),
            line(
                "serial",
                "it carries the lab's protocol; what was said is in serial.log".to_owned(),
            ),
        ]
    }

    /// Starts the gdb stub; returns how to attach, or why it did not start.
    fn stub(&self, vm: &mut Vm) -> String {
        let stub = self.path("gdb.sock");
        let command = format!("gdbserver unix:{},server=on,wait=off", stub.display());
        let started = vm.qmp().execute(&HumanMonitor::new(command), PATIENCE);
        match started {
            Ok(said) if !stub.exists() => format!("QEMU starts no gdb stub: {}", said.trim()),
            Ok(_) => format!("gdb -ex 'target remote {}'", stub.display()),
            Err(error) => format!("QEMU starts no gdb stub: {error}"),
        }
    }
}
