//! The thread that starts every QEMU.
//!
//! `PR_SET_PDEATHSIG` is sent when the *thread* that forked ends, not the process. A worker of the
//! runner may end, or hand its session to another, while its QEMU lives; this thread ends with the
//! runner only.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::{io, thread};

type Job = (Command, Sender<io::Result<Child>>);

/// Starts `command` so that it gets its death signal when the runner dies, and not before.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Result<Sender<Job>, io::ErrorKind>> = OnceLock::new();
    let jobs = SPAWNER
        .get_or_init(|| {
            let (jobs, inbox) = channel::<Job>();
            thread::Builder::new()
                .name("spawner".into())
                .spawn(move || {
                    for (mut command, answer) in inbox {
                        // A caller that no longer waits has no use for the child either.
                        if let Err(unwanted) = answer.send(command.spawn())
                            && let Ok(mut child) = unwanted.0
                        {
                            let _ = child.kill();
                            let _ = child.wait();
                        }
                    }
                })
                .map(|_| jobs)
                .map_err(|error| error.kind())
        })
        .as_ref()
        .map_err(|kind| io::Error::from(*kind))?;

    let (answer, result) = channel();
    jobs.send((command, answer))
        .map_err(|_| io::Error::other("the thread that starts QEMU has ended"))?;
    result
        .recv()
        .map_err(|_| io::Error::other("the thread that starts QEMU has ended"))?
}
