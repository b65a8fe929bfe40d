//! Runs the command in its root, forwards its output, and kills the processes it leaves behind.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};

use super::super::job::Job;
use super::super::message::{CHUNK, Cause, Ended, Message, Stage, Stream};
use super::line::Line;
use super::{Failure, failure};

/// Runs the command of `job` in `root` and waits for it.
pub(super) fn run(job: &Job, root: &Path, line: &Line) -> Result<Ended, Failure> {
    let inside = root.join(job.folder.trim_start_matches('/'));
    std::fs::read_dir(&inside).map_err(|error| failure(Stage::Command, &job.folder, &error))?;
    let [program, arguments @ ..] = job.command.as_slice() else {
        return Err(failure(
            Stage::Command,
            "the command",
            &io::Error::other("it is empty"),
        ));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(job.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (root, folder) = (root.to_owned(), job.folder.clone());
    let enter = move || {
        chroot(&root)?;
        chdir(Path::new(&folder))?;
        Ok(())
    };
    // SAFETY: between fork and exec only chroot and chdir are called, on paths made before.
    unsafe { command.pre_exec(enter) };
    let mut child = command.spawn().map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(0);
        (
            Stage::Command,
            Cause::Command {
                program: program.clone(),
                errno,
            },
        )
    })?;
    let pid = Pid::from_raw(child.id() as i32);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| pass_on(out, Stream::Out, line));
        scope.spawn(|| pass_on(err, Stream::Err, line));
        let ended = reap_until(pid);
        // Processes that still hold the pipes would keep the readers waiting.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        ended
    });
    ended.map_err(|errno| failure(Stage::Command, "wait", &errno.into()))
}

/// Reaps whatever ends, as a first process must, until `pid` does.
fn reap_until(pid: Pid) -> Result<Ended, Errno> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(who, code)) if who == pid => return Ok(Ended::Code(code)),
            Ok(WaitStatus::Signaled(who, signal, _)) if who == pid => {
                return Ok(Ended::Signal(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Forwards the output of a pipe.
fn pass_on(pipe: Option<impl Read>, stream: Stream, line: &Line) {
    let Some(mut pipe) = pipe else {
        return;
    };
    let mut chunk = vec![0; CHUNK];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => {
                let bytes = chunk[..length].to_vec();
                if line.send(&Message::Output { stream, bytes }).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
