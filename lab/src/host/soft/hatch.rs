//! A way in for people: a monitor of their own, and a gdb stub, on sockets in a folder of their own.
//!
//! The lab itself talks to QEMU over inherited sockets that nobody else can reach. Where a guest is
//! to be kept after a failure, QEMU gets a second monitor on a socket with a name.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::vm::Vm;
use crate::qemu::Line;
use crate::qemu::qmp::commands::HumanMonitor;

/// How long the monitor may take to start the gdb stub.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folder with the sockets. It goes when the session goes.
#[derive(Debug)]
pub(super) struct Hatch {
    folder: tempfile::TempDir,
}

impl Hatch {
    /// Makes the folder, under a path that is short enough for a socket.
    pub(super) fn new() -> io::Result<Hatch> {
        let folder = tempfile::Builder::new().prefix("tdxlab-").tempdir()?;
        Ok(Hatch { folder })
    }

    /// Where QEMU listens for a person's QMP.
    pub(super) fn monitor(&self) -> Line {
        Line::Listen(self.path("qmp.sock"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the gdb stub, and says how to come in.
    pub(super) fn open(&self, vm: &mut Vm) -> Vec<(String, String)> {
        let line = |what: &str, how: String| (what.to_owned(), how);
        let stub = self.path("gdb.sock");
        let command = format!("gdbserver unix:{},server=on,wait=off", stub.display());
        let started = vm.qmp().execute(&HumanMonitor::new(command), PATIENCE);
        let gdb = match started {
            Ok(said) if !stub.exists() => format!("QEMU starts no gdb stub: {}", said.trim()),
            Ok(_) => format!("gdb -ex 'target remote {}'", stub.display()),
            Err(error) => format!("QEMU starts no gdb stub: {error}"),
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
}
