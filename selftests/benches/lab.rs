//! Benchmarks of the lab: `make bench`. Prints a table and writes it to `target/bench.json`.
//!
//! Figures that depend on the machine are compared with bare QEMU, started alternately with the
//! lab's guests in the same run. Nothing here passes or fails.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tdxlab::addr::{Gpa, GpaRange, PageLevel};
use tdxlab::fuzz::{Harness, Stepped};
use tdxlab::host::{BootOptions, Host, Session};
use tdxlab::host_soft::sim::SimHost;
use tdxlab::host_soft::soft::SoftHost;
use tdxlab::plan::{Action, Design, Guest, HIGH_BASE, LOW_BASE, Op, Size, VcpuId};
use tdxlab::predict::Predictor;

const LEAF: u64 = PageLevel::Size2M.bytes();
const T: u64 = 1 << 40;
const G: u64 = 1 << 30;

/// How often what involves QEMU is repeated.
const ROUNDS: usize = 21;

struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    note: String,
}

fn main() {
    let mut rows = Vec::new();
    predictor(&mut rows);
    sim(&mut rows);
    match SoftHost::find() {
        Ok(host) => {
            boot(&host, &mut rows);
            tdcall(&host, &mut rows);
        }
        Err(error) => println!("no figures of the soft host: {error}"),
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match build_program(&root) {
        Some(program) => {
            hunt(&program, &mut rows);
            default_set(&root, &program, &mut rows);
            l1(&root, &program, &mut rows);
        }
        None => println!("no figures of what tdxlab does as a whole: tdxlab could not be built"),
    }
    for row in &rows {
        println!(
            "{:44} {:>12.3} {:9} {}",
            row.what, row.value, row.unit, row.note
        );
    }
    if let Err(error) = write_json(&rows) {
        println!("bench.json could not be written: {error}");
    }
}

fn guest(base: Gpa, bytes: u64) -> Guest {
    let memory = GpaRange::with_len(base, bytes).expect("far from the top");
    Guest::over(memory)
}

fn accept(range: GpaRange, size: Size) -> Op {
    Op::Accept {
        range,
        size,
        vcpu: VcpuId(0),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The prediction of a hole over 10,000 mapped extents in a 16 TiB guest; the same extents under
/// holes of 12 GiB to 12 TiB, which must not matter.
fn predictor(rows: &mut Vec<Row>) {
    let design = Design::named("headtail").expect("a known design");
    let guest = guest(HIGH_BASE, 16 * T);
    // 10,000 pages, 1 MiB from each other, from 2 TiB on.
    let first = HIGH_BASE.as_u64() + 2 * T;
    let mut mapped = Predictor::new(design, &guest);
    for index in 0..10_000_u64 {
        let page = Gpa::new(first + index * LEAF / 2).page(PageLevel::Size4K);
        mapped
            .step(&Action::One(accept(page, Size::Size4K)))
            .expect("an ACCEPT can be judged");
    }
    let mut times = Vec::new();
    for hole in [12 * G, 120 * G, 1200 * G, 12 * T] {
        let start = Gpa::new(first - LEAF / 2);
        let range = GpaRange::with_len(start, hole).expect("far from the top");
        let punch = Action::One(Op::Punch { range });
        let rounds = (0..101).map(|_| {
            let mut predictor = mapped.clone();
            let begun = Instant::now();
            std::hint::black_box(predictor.step(&punch)).expect("a hole can be judged");
            begun.elapsed()
        });
        let time = median(rounds.collect());
        times.push(time.as_secs_f64());
        rows.push(Row {
            what: format!("predict a hole of {} GiB", hole / G),
            value: time.as_secs_f64() * 1e6,
            unit: "us",
            note: "10,000 mapped extents under it; to reach: 50".to_owned(),
        });
    }
    let slowest = times.iter().copied().fold(0.0, f64::max);
    let fastest = times.iter().copied().fold(f64::MAX, f64::min);
    rows.push(Row {
        what: "largest to smallest of these".to_owned(),
        value: slowest / fastest,
        unit: "times",
        note: "to reach: 1.5".to_owned(),
    });
}

/// Accepts a second of the in-process guest, each with its exit and its mapping.
fn sim(rows: &mut Vec<Row>) {
    let guest = guest(LOW_BASE, G);
    let options = BootOptions {
        design: "headtail".to_owned(),
        module: None,
        seed: 0,
        folder: std::path::PathBuf::new(),
        patience: Duration::from_secs(60),
        fresh: true,
    };
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let mut session = SimHost::in_memory()
                .boot(&guest, &options)
                .expect("sim boots everywhere");
            let begun = Instant::now();
            session
                .perform(&accept(guest.memory, Size::Size4K), &[])
                .expect("memory can be accepted");
            guest.memory.pages_4k() as f64 / begun.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rows.push(Row {
        what: "sim: 4K ACCEPTs a second".to_owned(),
        value: rates[rates.len() / 2] / 1e6,
        unit: "million",
        note: "to reach: 1".to_owned(),
    });
}

/// A guest on `soft` that has passed the positive control.
fn boot_soft(host: &SoftHost, guest: &Guest, files: &Path) -> Harness {
    let design = Design::named("headtail").expect("a known design");
    Harness::boot(host, design, guest, 0, files).expect("soft boots")
}

/// Boot to agent-ready and boot to verdict, against bare QEMU that runs the same image to its exit
/// port, in turn.
fn boot(host: &SoftHost, rows: &mut Vec<Row>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("bare.bin");
    // The first instructions write to the exit port; the rest of the image is the same.
    let mut bytes = tdxlab_guest_image::IMAGE.to_vec();
    bytes[0xfff0..0xfff6].copy_from_slice(&[0x31, 0xc0, 0xe6, 0xf4, 0xf4, 0x90]);
    fs::write(&image, bytes).expect("the temporary folder takes a file");
    let guest = guest(LOW_BASE, 64 << 20);
    let page = LOW_BASE.page(PageLevel::Size4K);
    let [mut bare, mut ready, mut verdict] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        run_bare(&host.qemu().program, &image);
        bare.push(begun.elapsed());
        let begun = Instant::now();
        let mut harness = boot_soft(host, &guest, folder.path());
        ready.push(begun.elapsed());
        let stepped = harness.step(&Action::One(accept(page, Size::Size4K)));
        assert_eq!(stepped, Stepped::Passed { alive: true });
        verdict.push(begun.elapsed());
    }
    let [bare, ready, verdict] = [bare, ready, verdict]
        .map(median)
        .map(|time| time.as_secs_f64());
    let mut row = |what: &str, value, unit, note: &str| {
        rows.push(Row {
            what: what.to_owned(),
            value,
            unit,
            note: note.to_owned(),
        });
    };
    row("bare QEMU, start to exit", bare * 1e3, "ms", "");
    row("soft: start to agent ready", ready * 1e3, "ms", "");
    row(
        "  against bare QEMU",
        ready / bare,
        "times",
        "to reach: 1.5",
    );
    row(
        "soft: start to verdict of one ACCEPT",
        verdict * 1e3,
        "ms",
        "",
    );
    row(
        "  against bare QEMU",
        verdict / bare,
        "times",
        "to reach: 2",
    );
}

/// The machine of the lab's guests, so that both start the same devices.
const MACHINE: &str = "q35,smm=off,vmport=off,hpet=off,sata=off,i8042=off,pit=off,graphics=off,\
                       acpi=off,memory-backend=ram";

fn run_bare(program: &Path, image: &Path) {
    let status = Command::new(program)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-m",
            "1024M",
        ])
        .args(["-machine", MACHINE])
        .args(["-object", "memory-backend-memfd,id=ram,size=1024M,share=on"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"])
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("QEMU starts");
    assert_eq!(status.code(), Some(1), "the exit port ends QEMU with 1");
}

/// One TDCALL from the guest through the doorbell and back: ACCEPTs of a page already accepted.
fn tdcall(host: &SoftHost, rows: &mut Vec<Row>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let guest = guest(LOW_BASE, 64 << 20);
    let mut harness = boot_soft(host, &guest, folder.path());
    let session: &mut dyn Session = harness.session();
    let range = GpaRange::with_len(LOW_BASE, 32 << 20).expect("far from the top");
    let accept = accept(range, Size::Size4K);
    session
        .perform(&accept, &[])
        .expect("memory can be accepted");
    let rounds = (0..5).map(|_| {
        let begun = Instant::now();
        session
            .perform(&accept, &[])
            .expect("memory can be accepted again");
        begun.elapsed() / u32::try_from(range.pages_4k()).expect("a few thousand pages")
    });
    rows.push(Row {
        what: "soft: one TDCALL there and back".to_owned(),
        value: median(rounds.collect()).as_secs_f64() * 1e6,
        unit: "us",
        note: "to reach: 25".to_owned(),
    });
}

/// Steps a second of random scenarios on `sim`, each drawn, predicted, done and judged.
fn hunt(program: &Path, rows: &mut Vec<Row>) {
    let out = tempfile::tempdir().expect("a temporary folder");
    let rates = (1..=3).filter_map(|seed: u32| {
        Command::new(program)
            .args(["fuzz", "--host", "sim", "--jobs", "2", "--for", "10s"])
            .args(["--seed", &seed.to_string(), "--out"])
            .arg(out.path().join(seed.to_string()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        let hunt = fs::read_dir(out.path().join(seed.to_string())).ok()?.next();
        let text = fs::read(hunt?.ok()?.path().join("fuzz.json")).ok()?;
        let hunt: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(hunt["steps"].as_f64()? / hunt["micros"].as_f64()?)
    });
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    let Some(rate) = rates.get(rates.len() / 2) else {
        println!("no figure of hunts: none left a report");
        return;
    };
    rows.push(Row {
        what: "fuzz on sim, 2 jobs: steps a second".to_owned(),
        value: rate * 1e3,
        unit: "thousand",
        note: "to reach: 200".to_owned(),
    });
}

/// The whole default set with one and two jobs, and the memory the runner needs for it.
fn default_set(root: &Path, program: &Path, rows: &mut Vec<Row>) {
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut largest = 0;
    for jobs in ["1", "2"] {
        let begun = Instant::now();
        let run = Command::new(program)
            .args(["run", "--quiet", "--jobs", jobs, "--out"])
            .arg(out.path())
            .current_dir(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut run) = run else {
            println!(
                "no figures of the default set: {} does not start",
                program.display()
            );
            return;
        };
        let code = loop {
            largest = largest.max(peak_kib(run.id()));
            match run.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) => break status.code(),
                Err(_) => break None,
            }
        };
        rows.push(Row {
            what: format!("default set, {jobs} job(s)"),
            value: begun.elapsed().as_secs_f64(),
            unit: "s",
            note: format!("exit code {code:?}; to reach with 2 jobs: 15"),
        });
    }
    rows.push(Row {
        what: "peak memory of the runner".to_owned(),
        value: largest as f64 / 1024.0,
        unit: "MiB",
        note: "resident, QEMU not counted; to reach: 64".to_owned(),
    });
}

/// The scenarios of plain VMs in an L1, and the first judged step, from the start of the program.
/// Skipped without a kernel.
fn l1(root: &Path, program: &Path, rows: &mut Vec<Row>) {
    let out = tempfile::tempdir().expect("a folder for reports");
    let begun = Instant::now();
    let run = Command::new(program)
        .args(["l1", "--verbose", "--out"])
        .arg(out.path())
        .args(["--", "run", "scenarios/kvm", "--host", "kvm", "--out"])
        .arg(out.path())
        .current_dir(root)
        .stdin(Stdio::null())
        .output();
    let all = begun.elapsed().as_secs_f64();
    let run = match run {
        Ok(run) if run.status.success() => run,
        other => {
            let said = other.map(|run| String::from_utf8_lossy(&run.stderr).into_owned());
            println!("no figures of an L1: {said:?}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let note = said
        .lines()
        .find(|line| line.contains("kernel "))
        .unwrap_or_default();
    let Some((first, last)) = first_and_last(out.path()) else {
        println!("no figures of an L1: its journal has no judged step");
        return;
    };
    // The journal's clock starts with the run in the L1, so the time after the first step is
    // subtracted from the total.
    rows.push(Row {
        what: "L1: first judged step, at most".to_owned(),
        value: all - (last - first),
        unit: "s",
        note: format!("to reach: 15; {}", note.trim()),
    });
    rows.push(Row {
        what: "L1: the whole set kvm/".to_owned(),
        value: all,
        unit: "s",
        note: "to reach: 60".to_owned(),
    });
}

/// When the first step was judged and when the last event was written, in seconds of the journal.
fn first_and_last(reports: &Path) -> Option<(f64, f64)> {
    let runs = fs::read_dir(reports).ok()?.flatten();
    let journal = runs
        .map(|run| run.path().join("journal.jsonl"))
        .find_map(|path| fs::read_to_string(path).ok())?;
    let lines: Vec<serde_json::Value> = journal
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let at = |line: &serde_json::Value| Some(line["at"].as_f64()? / 1e6);
    let judged = |line: &&serde_json::Value| line["event"].get("step_judged").is_some();
    Some((at(lines.iter().find(judged)?)?, at(lines.last()?)?))
}

/// The most memory a process has had resident so far; 0 once it is gone.
fn peak_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

fn build_program(root: &Path) -> Option<std::path::PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "tdxlab",
        ])
        .current_dir(root)
        .status()
        .ok()?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), std::path::PathBuf::from);
    status.success().then(|| target.join("release/tdxlab"))
}

fn write_json(rows: &[Row]) -> std::io::Result<()> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench.json");
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({ "what": row.what.trim(), "value": row.value, "unit": row.unit })
        })
        .collect();
    let mut file = fs::File::create(target)?;
    writeln!(file, "{}", serde_json::Value::Array(rows))
}
