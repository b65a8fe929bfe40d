//! `tdxlab linux`: a run of Linux guests that is interrupted and resumed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tdxlab::l1::package::cache_folder;
use tdxlab::report::{self, Report};
use tdxlab_linux::image::First;
use tdxlab_linux::{ImageOptions, LinuxImage};
use tdxlab_selftests::command::root;
use tdxlab_selftests::uefi_disk::{self, System};

/// Something has happened by then, or the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// `tdxlab linux` on plain guests.
fn linux(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"));
    command
        .args(["linux", "--host", "tcg"])
        .args(arguments)
        .current_dir(root())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The report of a run's folder.
fn report_of(folder: &std::path::Path) -> Report {
    report::from_journal(&folder.join("journal.jsonl")).unwrap()
}

#[test]
fn a_linux_guest_that_was_interrupted_is_run_again() {
    let out = tempfile::tempdir().unwrap();
    let reports = out.path().to_str().unwrap();
    let paths = ["scenarios/linux/boot.yaml", "scenarios/linux/fill-4k.yaml"];
    let run = linux(&[&["--out", reports], &paths[..]].concat()).spawn();
    let mut run = run.unwrap();
    let until = Instant::now() + PATIENCE;
    let latest = out.path().join("latest/journal.jsonl");
    let seen = |event: &str| fs::read_to_string(&latest).is_ok_and(|text| text.contains(event));
    // Without a kernel, all is skipped and the run ends on its own.
    while !seen("\"linux_started\"") && run.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "nothing has begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    let was_over = run.try_wait().unwrap().is_some();
    if !was_over {
        kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGTERM).unwrap();
    }
    let output = run.wait_with_output().unwrap();
    if was_over {
        let required = std::env::var_os("TDXLAB_REQUIRE_L1").is_some();
        assert!(!required, "{}", said(&output));
        return eprintln!("skipped: {}", said(&output));
    }
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let folder: PathBuf = fs::canonicalize(out.path().join("latest")).unwrap();
    let report = report_of(&folder);
    assert!(report.interrupted && report.scenarios[0].unfinished);
    assert_eq!(report.counts.error, 0, "{}", said(&output));
    let name = folder.file_name().unwrap().to_str().unwrap();
    let next = format!("continue with: tdxlab linux --resume {reports}/{name}");
    assert!(said(&output).contains(&next), "{}", said(&output));

    let folder = folder.to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tdxlab-under-test"))
        .args(["run", "--resume", folder])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        said(&output).contains("tdxlab linux --resume"),
        "{}",
        said(&output)
    );

    let output = linux(&["--resume", folder]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report = report_of(folder.as_ref());
    assert_eq!(report.counts.pass, 2, "{}", said(&output));
    assert!(!report.interrupted);
}

#[test]
fn a_disk_that_is_not_there_is_told_by_name() {
    let out = tempfile::tempdir().unwrap();
    let reports = out.path().to_str().unwrap();
    let scenario = "scenarios/linux/qemu-ga.yaml";
    let output = linux(&["--out", reports, "--disk", "/no/such.img", scenario]).output();
    let output = output.unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("disk /no/such.img: No such file"), "{said}");
    assert!(said.contains("relative to its file"), "{said}");
}

/// A disk that UEFI starts, with Debian's kernel and qemu-ga on it; or what is missing for it.
fn uefi_disk(path: &Path) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let image = LinuxImage::prepare(&ImageOptions {
        first: First::QemuGa,
        ..ImageOptions::default()
    });
    let image = image.map_err(|error| text(&error))?;
    let cache = cache_folder().map_err(|error| text(&error))?;
    // As packaged, with its EFI stub.
    let kernel = cache.join("kernels/linux-image-cloud-amd64/vmlinuz");
    let system = System {
        kernel: fs::read(kernel).map_err(|error| text(&error))?,
        initramfs: fs::read(image.initramfs).map_err(|error| text(&error))?,
        append: "console=ttyS0 loglevel=4 panic=-1 oops=panic nowatchdog".to_owned(),
    };
    let loader = uefi_disk::loader().map_err(|error| text(&error))?;
    uefi_disk::write(path, &loader, &system).map_err(|error| text(&error))
}

#[test]
fn a_disk_that_uefi_starts_is_found_out_and_started() {
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("disk.img");
    if let Err(what) = uefi_disk(&disk) {
        let required = std::env::var_os("TDXLAB_REQUIRE_L1").is_some();
        assert!(!required, "{what}");
        return eprintln!("NOT TESTED: {what}");
    }
    let reports = out.path().join("reports");
    let (reports, disk) = (reports.to_str().unwrap(), disk.to_str().unwrap());
    let scenario = "scenarios/linux/qemu-ga.yaml";
    let output = linux(&["--out", reports, "--disk", disk, scenario]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report = report_of(&Path::new(reports).join("latest"));
    assert_eq!(report.counts.pass, 1, "{}", said(&output));
    let seen = report.scenarios[0].steps[0].seen.join("\n");
    assert!(
        seen.contains("the disk was started by ") && seen.contains("OVMF.fd"),
        "{seen}"
    );
}

#[test]
fn a_disk_that_nothing_starts_is_refused_with_the_cure() {
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let (reports, disk) = (out.path().to_str().unwrap(), disk.to_str().unwrap());
    let scenario = "scenarios/linux/qemu-ga.yaml";
    let output = linux(&["--out", reports, "--disk", disk, scenario]).output();
    let said = said(&output.unwrap());
    assert!(said.contains("neither for a BIOS nor for UEFI"), "{said}");
    assert!(said.contains("append: root=/dev/"), "{said}");
}
