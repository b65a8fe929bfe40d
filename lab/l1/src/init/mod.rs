//! The L1's first process: the same program, started by the L1's kernel from the initramfs.
//!
//! It loads the modules, mounts the host's files, runs the command, and reports the result or the
//! failure over the message line. It never exits; it reboots, and QEMU ends.

mod files;
mod kernel;
mod line;
mod program;

use std::time::Duration;
use std::{fs, io};

use super::job::{self, Job};
use super::message::{Cause, Message, Stage};
use line::Line;

/// A failure: the stage and its cause.
type Failure = (Stage, Cause);

/// Entry of the hidden command that the L1's kernel starts as its first process.
pub fn main() -> ! {
    if std::process::id() != 1 {
        eprintln!("l1-init is what an L1 starts with; run `tdxlab l1` instead");
        std::process::exit(64);
    }
    if let Err(error) = serve() {
        // The console is kept as evidence; no other channel is left.
        eprintln!("tdxlab: {error}");
    }
    kernel::reboot()
}

fn serve() -> io::Result<()> {
    files::mount_early()?;
    let job: Job = serde_json::from_slice(&fs::read(job::PATH)?)?;
    // The line may need the modules, so their failures are reported after it is open.
    let loaded = kernel::load_modules(&job.modules);
    let line = Line::open(job.id)?;
    line.send(&Message::Hello {
        release: kernel::release(),
        line: line.name().to_owned(),
    })?;
    line.keep_alive(Duration::from_secs(1));
    let told = match loaded.and_then(|()| work(&job, &line)) {
        Ok(()) => line.send(&Message::Done),
        Err((stage, cause)) => line.send(&Message::Failed {
            stage,
            cause,
            log: kernel::last_log_lines(20),
        }),
    };
    told?;
    line.drain();
    // The lab ends QEMU once it has the answer.
    std::thread::sleep(Duration::from_secs(10));
    Ok(())
}

fn work(job: &Job, line: &Line) -> Result<(), Failure> {
    let begin = |stage| {
        line.send(&Message::Stage(stage))
            .map_err(|error| failure(stage, "the line", &error))
    };
    kernel::add_entropy(&job.entropy);
    kernel::tune();

    begin(Stage::Files)?;
    let files = files::Files::mount(line)?;

    begin(Stage::Kvm)?;
    if !std::path::Path::new("/dev/kvm").exists() {
        let module = job.vendor.feature().module.to_owned();
        return Err((Stage::Kvm, Cause::Lacks { module }));
    }

    begin(Stage::Command)?;
    let ended = program::run(job, files.root(), line)?;
    line.send(&Message::Ended(ended))
        .map_err(|error| failure(Stage::Command, "the line", &error))?;

    begin(Stage::Report)?;
    if let Some(report) = &job.report {
        files
            .send_report(report, line)
            .map_err(|error| failure(Stage::Report, report, &error))?;
    }
    Ok(())
}

/// A failed system call.
fn failure(stage: Stage, doing: &str, error: &io::Error) -> Failure {
    let cause = Cause::System {
        doing: doing.to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
        text: error.to_string(),
    };
    (stage, cause)
}
