//! QEMU as a process: started with its sockets, watched through a pidfd, killed when the lab dies.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::command::CommandLine;
use super::error::QemuError;
use super::head_tail::HeadTail;
use super::spawner;

/// Bytes of stderr kept from the beginning and from the end.
const STDERR_KEPT: (usize, usize) = (8 << 10, 24 << 10);

/// A running QEMU. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    stderr: ChildStderr,
    said: HeadTail<u8>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `line`. QEMU inherits `inherited` and no other descriptor, under the same numbers
    /// (which `line` names).
    ///
    /// It has its own process group, so that ^C on the terminal reaches the lab alone. The kernel
    /// kills it when the lab dies, even by SIGKILL.
    ///
    /// # Errors
    ///
    /// The program is missing or cannot be executed, or a resource is exhausted.
    pub fn start(line: &CommandLine, inherited: Vec<OwnedFd>) -> Result<Process, QemuError> {
        let mut command = Command::new(&line.program);
        command
            .args(&line.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let lab = nix::unistd::getpid();
        let only_small_pages = line.only_small_pages;
        // SAFETY: between fork and exec only fcntl, prctl and getppid are called, all
        // async-signal-safe; nothing is allocated, and `inherited` stays open as it is moved in.
        unsafe {
            command.pre_exec(move || {
                for fd in &inherited {
                    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
                }
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if only_small_pages {
                    // The setting survives exec.
                    nix::sys::prctl::set_thp_disable(true)?;
                }
                if nix::unistd::getppid() != lab {
                    // The lab died before the signal was armed.
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let mut child = spawner::spawn(command).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => QemuError::Missing {
                tried: vec![line.program.display().to_string()],
            },
            _ => QemuError::CouldNotStart {
                program: line.program.clone(),
                source,
            },
        })?;

        let stderr = child.stderr.take().expect("stderr is piped");
        let ready = pidfd_open(child.id()).and_then(|pidfd| {
            fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok(pidfd)
        });
        match ready {
            Ok(pidfd) => Ok(Process {
                child,
                pidfd,
                stderr,
                said: HeadTail::new(STDERR_KEPT.0, STDERR_KEPT.1),
                ended: None,
            }),
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(QemuError::System {
                    doing: "watching QEMU through a pidfd (Linux 5.3 or newer)".into(),
                    source,
                })
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The read end of QEMU's stderr.
    pub fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// Reads QEMU's stderr; whether it is still open. Never blocks.
    pub fn listen(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // Bounded: one that talks without pause must not keep the lab from its work.
        for _ in 0..16 {
            match self.stderr.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.said.extend(&buffer[..count]),
                Err(_) => break,
            }
        }
        true
    }

    /// How it ended, if it did. Never blocks.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        if self.ended.is_some() {
            self.listen();
        }
        self.ended
    }

    /// Output on stderr, as far as it is kept.
    pub fn said(&mut self) -> Vec<u8> {
        self.listen();
        self.said.to_bytes()
    }

    /// The last line on stderr, for a message; `(it said nothing)` if there is none.
    pub fn last_line(&mut self) -> String {
        self.listen();
        self.said
            .last_line()
            .unwrap_or_else(|| "(it said nothing)".into())
    }

    /// `; its last line: ...` for the end of a message, or empty.
    pub fn and_its_last_line(&mut self) -> String {
        self.listen();
        match self.said.last_line() {
            Some(line) => format!("; its last line: {line}"),
            None => String::new(),
        }
    }

    /// Waits for the exit until `until`, then kills the process.
    pub fn wait_for_exit(&mut self, until: Instant) -> io::Result<ExitStatus> {
        while self.ended().is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.kill();
            }
            let slice = left.min(Duration::from_millis(100));
            let timeout = PollTimeout::try_from(slice).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {
                    self.listen();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.ended.expect("the loop ends when it has ended"))
    }

    /// Ends it at once and reaps it.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        self.listen();
        Ok(status)
    }

    /// Duplicates its file descriptor `fd` into the lab (`pidfd_getfd`, Linux 5.6 or newer).
    ///
    /// # Errors
    ///
    /// EPERM where ptrace is not allowed: another user, or a Yama scope that asks for more than
    /// being the parent.
    pub fn take_fd(&self, fd: i32) -> io::Result<OwnedFd> {
        // SAFETY: no pointers; the kernel checks both numbers.
        let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), fd, 0) };
        owned(taken)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the child is not reaped yet, so the pid is its.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// The file descriptor a system call returned, or its errno.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn sh(script: &str) -> CommandLine {
        CommandLine {
            // `sh` may be one that knows no file descriptors above 9.
            program: "bash".into(),
            args: vec!["-c".into(), script.into()],
            only_small_pages: false,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn what_it_said_last_is_kept() {
        let line = sh("echo one >&2; echo 'qemu: no' >&2; exit 3");
        let mut process = Process::start(&line, Vec::new()).unwrap();
        assert_eq!(process.wait_for_exit(soon()).unwrap().code(), Some(3));
        assert_eq!(process.last_line(), "qemu: no");
        assert_eq!(process.said(), b"one\nqemu: no\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        let line = CommandLine {
            program: "/nonexistent/qemu".into(),
            args: Vec::new(),
            only_small_pages: false,
        };
        let error = Process::start(&line, Vec::new()).unwrap_err();
        assert!(matches!(error, QemuError::Missing { .. }), "{error}");
    }

    #[test]
    fn sockets_are_inherited_by_number() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let line = sh(&format!("read word <&{fd}; echo \"got $word\" >&{fd}"));
        let mut process = Process::start(&line, vec![theirs.into()]).unwrap();
        ours.write_all(b"it\n").unwrap();
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        assert_eq!(said, "got it\n");
        assert!(process.wait_for_exit(soon()).unwrap().success());
    }

    #[test]
    fn dropping_it_ends_it() {
        let process = Process::start(&sh("sleep 600"), Vec::new()).unwrap();
        let pid = nix::unistd::Pid::from_raw(process.pid().cast_signed());
        drop(process);
        assert_eq!(
            nix::sys::signal::kill(pid, None),
            Err(nix::Error::ESRCH),
            "the process is gone and reaped"
        );
    }

    #[test]
    fn it_outlives_the_thread_that_asked_for_it() {
        let mut process = std::thread::spawn(|| Process::start(&sh("sleep 600"), Vec::new()))
            .join()
            .unwrap()
            .unwrap();
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            assert_eq!(process.ended(), None);
        }
    }

    #[test]
    fn its_files_can_be_taken() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.as_raw_fd();
        let process = Process::start(&sh("sleep 600"), vec![theirs.into()]).unwrap();
        let mut taken = UnixStream::from(process.take_fd(fd).unwrap());
        taken.write_all(b"x").unwrap();
        let mut byte = [0];
        ours.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
