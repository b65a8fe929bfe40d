//! A QEMU with the image in it, and its two lines.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a test waits before it gives up. Far longer than anything takes, so that a slow
/// machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// RAM of the machine.
pub(crate) const MEMORY_BYTES: usize = 256 << 20;

pub(crate) struct Qemu {
    process: Child,
    pub(crate) serial: UnixStream,
    pub(crate) doorbell: UnixStream,
    monitor: BufReader<UnixStream>,
    _image: TemporaryImage,
}

/// A file that goes when QEMU does.
struct TemporaryImage(PathBuf);

impl Drop for TemporaryImage {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Qemu {
    /// Starts QEMU on `image`; `topology` is what `-smp` takes.
    pub(crate) fn start(image: &[u8], topology: &str) -> Qemu {
        let (serial, guest_serial) = UnixStream::pair().expect("a socket pair");
        let (doorbell, guest_doorbell) = UnixStream::pair().expect("a socket pair");
        let (monitor, qemu_monitor) = UnixStream::pair().expect("a socket pair");
        let path = temporary_path();
        fs::write(&path, image).expect("the temporary folder is writable");
        let image = TemporaryImage(path);

        let inherited = [&guest_serial, &guest_doorbell, &qemu_monitor].map(AsRawFd::as_raw_fd);
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35,memory-backend=m0"])
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=m0,size={MEMORY_BYTES},share=on"
            ))
            .args(["-m", &format!("{}M", MEMORY_BYTES >> 20)])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", topology])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-bios")
            .arg(&image.0)
            .args(["-chardev", &format!("socket,id=serial,fd={}", inherited[0])])
            .args(["-serial", "chardev:serial"])
            .args([
                "-chardev",
                &format!("socket,id=doorbell,fd={}", inherited[1]),
            ])
            .args([
                "-chardev",
                &format!("socket,id=monitor,fd={}", inherited[2]),
            ])
            .args(["-mon", "chardev=monitor,mode=control"])
            .args(["-device", "isa-debugcon,iobase=0xe9,chardev=doorbell"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .stdin(Stdio::null());
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for fd in inherited {
                    if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let process = command.spawn().expect("qemu-system-x86_64 is installed");
        Qemu {
            process,
            serial,
            doorbell,
            monitor: BufReader::new(monitor),
            _image: image,
        }
    }

    /// Waits until bytes arrive: those of the serial line and those of the doorbell.
    pub(crate) fn wait(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut lines = [
            PollFd::new(self.serial.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(PATIENCE).expect("a short time");
        let count = poll(&mut lines, timeout).expect("poll");
        assert_ne!(count, 0, "nothing came from the guest for {PATIENCE:?}");
        let [serial, doorbell] = lines.map(|line| line.any().unwrap_or(false));
        let read = |ready, mut stream: &UnixStream| {
            let mut bytes = vec![0; if ready { 4096 } else { 0 }];
            if ready {
                let length = stream.read(&mut bytes).expect("a line to QEMU can be read");
                assert_ne!(length, 0, "QEMU has gone away");
                bytes.truncate(length);
            }
            bytes
        };
        (read(serial, &self.serial), read(doorbell, &self.doorbell))
    }

    /// Sends bytes on the serial line.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.serial.write_all(bytes).expect("QEMU takes bytes");
    }

    /// Waits until QEMU exits.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("QEMU is a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "QEMU does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many vCPUs are halted now: (halted, awake).
    pub(crate) fn halted(&mut self) -> (usize, usize) {
        let ask = r#"{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}"#;
        // QEMU takes the first of these once.
        let text = [r#"{"execute":"qmp_capabilities"}"#, ask].map(|line| self.monitor_answer(line));
        (
            text[1].matches("HLT=1").count(),
            text[1].matches("HLT=0").count(),
        )
    }

    /// The line with which the monitor answers a command.
    fn monitor_answer(&mut self, command: &str) -> String {
        let mut to = self.monitor.get_ref();
        writeln!(to, "{command}").expect("QEMU takes commands");
        loop {
            let mut line = String::new();
            let length = self
                .monitor
                .read_line(&mut line)
                .expect("the monitor can be read");
            assert_ne!(length, 0, "QEMU has gone away");
            if line.starts_with(r#"{"return""#) || line.starts_with(r#"{"error""#) {
                return line;
            }
        }
    }

    /// Takes a duplicate of the memory behind the guest's RAM.
    pub(crate) fn memory(&self) -> OwnedFd {
        let pid = self.process.id();
        let folder = format!("/proc/{pid}/fd");
        let number = fs::read_dir(folder)
            .expect("QEMU lives")
            .flatten()
            .find(|entry| {
                fs::read_link(entry.path())
                    .is_ok_and(|link| link.to_string_lossy().contains("memory-backend-memfd"))
            })
            .expect("QEMU has its memory in a memfd")
            .file_name();
        let number: i32 = number.to_string_lossy().parse().expect("a number");
        // SAFETY: these calls take and return numbers.
        unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            assert!(process >= 0, "pidfd_open: {}", io::Error::last_os_error());
            let process = OwnedFd::from_raw_fd(process as i32);
            let memory = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
            assert!(memory >= 0, "pidfd_getfd: {}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(memory as i32)
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        match self.process.kill() {
            Err(error) if error.kind() != ErrorKind::InvalidInput => eprintln!("QEMU: {error}"),
            _ => {}
        }
        let _ = self.process.wait();
    }
}

fn temporary_path() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tdxlab-image-{}-{number}.bin", std::process::id()))
}
