//! The line to the lab: a virtio-serial port if there is one, else the second serial line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tdxlab_protocol::frame::{self, Decoder, FrameError};
use tdxlab_protocol::linux::{LinuxReply, LinuxRequest, PORT};

use crate::reap::reap;

/// Where virtio-serial ports say their names.
const PORTS: &str = "/sys/class/virtio-ports";
/// The line where there is no port.
const SERIAL: &str = "/dev/ttyS1";

/// How long a virtio device has to appear, before the serial line is taken.
const SERIAL_AFTER: Duration = Duration::from_millis(500);
/// How long any line has to appear.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// The line, for [`last_words`].
static OPEN: OnceLock<File> = OnceLock::new();

/// The line to the lab.
pub(crate) struct Line {
    file: &'static File,
    decoder: Box<Decoder<LinuxRequest>>,
    /// Read and not yet decoded.
    ahead: Vec<u8>,
    sent: Instant,
}

/// Opens the line; the error names what is missing.
pub(crate) fn open() -> Result<Line, String> {
    let began = Instant::now();
    let file = loop {
        if let Some(file) = port() {
            break file;
        }
        let no_port = || fs::read_dir(PORTS).map_or(true, |mut ports| ports.next().is_none());
        if began.elapsed() > SERIAL_AFTER
            && no_port()
            && let Ok(file) = serial()
        {
            break file;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!(
                "there is no virtio-serial port {PORT} and no serial line {SERIAL}"
            ));
        }
        std::thread::sleep(PAUSE);
    };
    Ok(Line {
        file: OPEN.get_or_init(|| file),
        decoder: Box::new(Decoder::new()),
        ahead: Vec::new(),
        sent: Instant::now(),
    })
}

/// The virtio-serial port with the lab's name.
fn port() -> Option<File> {
    let device = device_of(PORT)?;
    OpenOptions::new().read(true).write(true).open(device).ok()
}

/// The device of the virtio-serial port with this name.
pub(crate) fn device_of(port: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(PORTS).ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == port {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

fn serial() -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(SERIAL)?;
    // Where there is a node and no UART behind it, this fails.
    let mut settings = tcgetattr(&file)?;
    cfmakeraw(&mut settings);
    tcsetattr(&file, SetArg::TCSANOW, &settings)?;
    Ok(file)
}

impl Line {
    /// Sends a reply. Waits where the lab does not read.
    pub(crate) fn send(&mut self, reply: &LinuxReply) {
        send(self.file, reply).unwrap_or_else(|error| panic!("the line to the lab: {error}"));
        self.sent = Instant::now();
    }

    /// Reports that `bytes` of request `id` are done, if a sign of life is due.
    pub(crate) fn progress(&mut self, id: u32, bytes: u64) {
        if self.sent.elapsed() > Duration::from_millis(500) {
            self.send(&LinuxReply::Progress { id, bytes });
        }
    }

    /// Waits for the next request. Reaps while it waits.
    pub(crate) fn receive(&mut self) -> Result<LinuxRequest, FrameError> {
        loop {
            let mut bytes = self.ahead.as_slice();
            let found = self.decoder.feed(&mut bytes);
            let left = bytes.len();
            self.ahead.drain(..self.ahead.len() - left);
            if let Some(result) = found {
                return result;
            }
            self.wait();
            let mut buffer = [0; 4096];
            match (&mut &*self.file).read(&mut buffer) {
                // The other end is not connected (yet).
                Ok(0) => std::thread::sleep(PAUSE),
                Ok(count) => self.ahead.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the line to the lab: {error}"),
            }
            reap();
        }
    }

    fn wait(&self) {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        // The time-out is for orphans that wait to be reaped.
        let _ = poll(&mut fds, PollTimeout::from(1000_u16));
    }
}

fn send(file: &File, reply: &LinuxReply) -> io::Result<()> {
    let mut buffer = frame::EMPTY_FRAME;
    let bytes = frame::encode(reply, &mut buffer).map_err(io::Error::other)?;
    (&mut &*file).write_all(bytes)
}

/// Sends the last words of an agent that dies. Does not wait for a lab that does not read.
pub(crate) fn last_words(reply: &LinuxReply) {
    let Some(file) = OPEN.get() else { return };
    // SAFETY: the file is static, so its descriptor stays open.
    let fd = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    let _ = nix::fcntl::fcntl(
        fd,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    );
    let _ = send(file, reply);
}
