//! The message line of an L1: a virtio-serial port, or COM2 if the kernel has none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use parking_lot::Mutex;

use super::super::job;
use super::super::message::{Message, Sender};

/// How long a port may take to appear once its driver is there.
const PORT_APPEARS: Duration = Duration::from_secs(5);

/// The open line. Messages of all threads go through it whole.
pub(super) struct Line {
    sender: Arc<Mutex<Sender<File>>>,
    device: File,
    name: String,
}

impl Line {
    /// Opens the line available.
    pub(super) fn open(id: u64) -> io::Result<Line> {
        let (name, device) = match port()? {
            Some(path) => (
                path.display().to_string(),
                File::options().write(true).open(path)?,
            ),
            None => (job::SERIAL.to_owned(), serial()?),
        };
        let sender = Arc::new(Mutex::new(Sender::new(device.try_clone()?, id)));
        Ok(Line {
            sender,
            device,
            name,
        })
    }

    /// The device's path.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Sends one message.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.sender.lock().send(message)
    }

    /// Lets a thread say every `period` that the L1 is alive.
    pub(super) fn keep_alive(&self, period: Duration) {
        let sender = Arc::clone(&self.sender);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(period);
                if sender.lock().send(&Message::Alive).is_err() {
                    return;
                }
            }
        });
    }

    /// Waits until all that was sent has left. Only a serial line holds anything back.
    pub(super) fn drain(&self) {
        let _ = tcdrain(&self.device);
    }
}

/// The virtio-serial port; `None` where the kernel has no driver for it.
fn port() -> io::Result<Option<PathBuf>> {
    if !Path::new("/sys/bus/virtio/drivers/virtio_console").exists() {
        return Ok(None);
    }
    // The driver learns the port's name a moment after the device appears.
    let deadline = Instant::now() + PORT_APPEARS;
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == job::PORT {
                return Ok(Some(Path::new("/dev").join(entry.file_name())));
            }
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// COM2, set to carry bytes as they are.
fn serial() -> io::Result<File> {
    let device = File::options().read(true).write(true).open(job::SERIAL)?;
    let mut settings = tcgetattr(&device)?;
    cfmakeraw(&mut settings);
    tcsetattr(&device, SetArg::TCSANOW, &settings)?;
    Ok(device)
}
