//! A real Linux, booted plain under TCG: requests to the agent, and every way to end.
//!
//! Needs QEMU and a packaged kernel, which the first run fetches. If one is missing the tests say
//! so and are skipped.

use std::time::Duration;

use tdxlab_journal::klog;
use tdxlab_linux::machine::{AgentLine, Start};
use tdxlab_linux::{Board, ImageOptions, LinuxError, LinuxGuest, LinuxImage, Machine, account};
use tdxlab_protocol::addr::{Gpa, GpaRange};
use tdxlab_protocol::linux::{Ask, BufferId, Load, Outcome, Pages, Witness};
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::Generation;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, Version};

const PATIENCE: Duration = Duration::from_secs(120);

/// QEMU and an image; `None`, with a message, if one is missing.
fn machine(options: &ImageOptions) -> Option<(Machine, LinuxImage)> {
    let missing = |what: String| {
        eprintln!("NOT TESTED: {what}");
        assert!(
            std::env::var_os("TDXLAB_REQUIRE_L1").is_none(),
            "TDXLAB_REQUIRE_L1 is set"
        );
        None
    };
    let qemu = match Installed::find(Version::new(7, 2)) {
        Ok(qemu) => qemu,
        Err(error) => return missing(error.to_string()),
    };
    let image = match LinuxImage::prepare(options) {
        Ok(image) => image,
        Err(error) => return missing(error.to_string()),
    };
    let machine = Machine {
        // Below 512 MiB Linux makes no transparent huge pages (hugepage_init()).
        mebibytes: 768,
        line: image.line,
        ..Machine::small(&qemu, image.start())
    };
    Some((machine, image))
}

fn start(machine: &Machine, image: &LinuxImage) -> LinuxGuest {
    LinuxGuest::start(
        machine.clone(),
        &image.name,
        Interrupt::of_process(),
        PATIENCE,
    )
    .unwrap()
}

fn buffer(number: u8) -> BufferId {
    BufferId::new(number).unwrap()
}

fn generation(number: u16) -> Generation {
    Generation::new(number).unwrap()
}

#[test]
fn memory_is_filled_found_and_lost_where_a_hole_is_punched() {
    let Some((machine, image)) = machine(&ImageOptions::default()) else {
        return;
    };
    let mut guest = start(&machine, &image);
    let ready = guest.wait_ready().unwrap();
    println!(
        "ready after {:?}, uptime {} ms",
        ready.after, ready.hello.uptime_ms
    );
    assert_eq!((ready.hello.vcpus, ready.hello.td), (1, false));

    let bytes = 32 << 20;
    let fill = |which, pages, number| Ask::Fill {
        buffer: buffer(which),
        bytes,
        pages,
        generation: generation(number),
    };
    let small = guest.ask(fill(0, Pages::Small, 1)).unwrap();
    assert_eq!(small.outcome, Ok(Outcome::Filled { bytes, huge: 0 }));
    let huge = guest.ask(fill(1, Pages::Transparent, 2)).unwrap();
    assert_eq!(huge.outcome, Ok(Outcome::Filled { bytes, huge: bytes }));
    for which in [0, 1] {
        let verified = guest
            .ask(Ask::Verify {
                buffer: buffer(which),
            })
            .unwrap();
        assert_eq!(
            verified.outcome,
            Ok(Outcome::Verified {
                bytes,
                wrong: 0,
                moved: 0
            })
        );
    }

    // A hole under 3 pages of the second buffer: these read zero, their neighbours are intact.
    let start = huge.extents[0].start;
    assert!(start.as_u64().is_multiple_of(2 << 20));
    let hole = GpaRange::with_len(Gpa::new(start.as_u64() + 0x5000), 3 << 12).unwrap();
    guest.memory().unwrap().punch(hole).unwrap();
    let verified = guest.ask(Ask::Verify { buffer: buffer(1) }).unwrap();
    assert_eq!(
        verified.outcome,
        Ok(Outcome::Verified {
            bytes,
            wrong: 3,
            moved: 0
        })
    );
    let [finding] = &verified.findings[..] else {
        panic!("{:?}", verified.findings)
    };
    assert_eq!(
        (finding.page, finding.count, &finding.content),
        (5, 3, &Content::Zero)
    );
    assert_eq!(finding.at, hole.start());
    let verified = guest.ask(Ask::Verify { buffer: buffer(0) }).unwrap();
    assert_eq!(
        verified.outcome,
        Ok(Outcome::Verified {
            bytes,
            wrong: 0,
            moved: 0
        })
    );

    // Refilled, all is intact again.
    assert!(
        guest
            .ask(fill(1, Pages::Transparent, 3))
            .unwrap()
            .outcome
            .is_ok()
    );
    let verified = guest.ask(Ask::Verify { buffer: buffer(1) }).unwrap();
    assert_eq!(
        verified.outcome,
        Ok(Outcome::Verified {
            bytes,
            wrong: 0,
            moved: 0
        })
    );

    // Linux's own account.
    let info = guest.ask(Ask::Read(Witness::MemInfo)).unwrap();
    let info = account::MemInfo::parse(&info.bytes);
    assert!(info.bytes("MemTotal").unwrap() < 768 << 20);
    let resources = account::iomem(&guest.ask(Ask::Read(Witness::IoMem)).unwrap().bytes);
    assert_eq!(account::at(&resources, start).unwrap().name, "System RAM");
    let log = guest.ask(Ask::Read(Witness::KernelLog)).unwrap().bytes;
    let log = String::from_utf8_lossy(&log);
    let messages = || log.lines().filter_map(|line| line.split_once(';'));
    assert!(messages().count() > 100, "{log}");
    let first = messages().next().unwrap().0;
    assert_eq!(
        first.split(',').nth(1),
        Some("0"),
        "none is overwritten: {first}"
    );
    let complains = |message: &&str| klog::complaint(message).is_some();
    let complaints: Vec<_> = messages().map(|(_, text)| text).filter(complains).collect();
    assert_eq!(complaints, Vec::<&str>::new());

    // The host holds the touched memory without the hole.
    let touched: u64 = guest
        .memory()
        .unwrap()
        .touched()
        .unwrap()
        .iter()
        .map(|r| r.bytes())
        .sum();
    assert!((64 << 20..768 << 20).contains(&touched), "{touched}");

    guest.power_off().unwrap();
}

#[test]
fn loads_leave_nothing_behind_and_buffers_intact() {
    let Some((machine, image)) = machine(&ImageOptions::default()) else {
        return;
    };
    let mut guest = start(&machine, &image);
    guest.wait_ready().unwrap();
    let bytes = 16 << 20;
    let fill = Ask::Fill {
        buffer: buffer(3),
        bytes,
        pages: Pages::Small,
        generation: generation(7),
    };
    guest.ask(fill).unwrap().outcome.unwrap();
    for load in [
        Load::Touch {
            bytes: 128 << 20,
            processes: 4,
        },
        Load::Fork {
            bytes: 16 << 20,
            processes: 3,
        },
        Load::Fragment { bytes: 128 << 20 },
        Load::Release,
    ] {
        let answer = guest.ask(Ask::Load(load)).unwrap();
        match answer.outcome.unwrap() {
            Outcome::Loaded { failed, .. } => assert_eq!(failed, 0, "{load:?}"),
            outcome => assert_eq!((load, outcome), (Load::Release, Outcome::Done)),
        }
    }
    let verified = guest.ask(Ask::Verify { buffer: buffer(3) }).unwrap();
    assert!(
        matches!(verified.outcome, Ok(Outcome::Verified { wrong: 0, .. })),
        "{verified:?}"
    );
    // A request for more than exists is refused and does not end the guest.
    let much = guest
        .ask(Ask::Load(Load::Touch {
            bytes: 4 << 30,
            processes: 2,
        }))
        .unwrap();
    assert_eq!(much.outcome.unwrap_err().errno, libc::ENOMEM);
    let twice = guest.ask(Ask::Free { buffer: buffer(3) }).unwrap();
    assert_eq!(twice.outcome, Ok(Outcome::Done));
    let twice = guest.ask(Ask::Free { buffer: buffer(3) }).unwrap();
    assert!(twice.outcome.unwrap_err().doing.contains("no buffer 3"));
    // A plain guest has no TDREPORT; the agent refuses.
    let report = guest.ask(Ask::Report { data: [[1; 32]; 2] }).unwrap();
    assert_eq!(report.outcome.unwrap_err().errno, libc::ENOENT);
    guest.power_off().unwrap();
}

#[test]
fn a_kernel_starts_itself_anew() {
    let options = ImageOptions {
        kexec: true,
        ..ImageOptions::default()
    };
    let Some((machine, image)) = machine(&options) else {
        return;
    };
    assert_eq!(image.no_kexec, None);
    let mut guest = start(&machine, &image);
    guest.wait_ready().unwrap();
    let again = guest.kexec().unwrap().unwrap();
    println!("kexec after {:?}", again.after);
    assert!(again.hello.kexec);
    guest.power_off().unwrap();
}

#[test]
fn a_pc_with_two_vcpus_and_a_serial_line_boots() {
    let Some((machine, image)) = machine(&ImageOptions::default()) else {
        return;
    };
    let machine = Machine {
        board: Board::Q35,
        vcpus: 2,
        line: AgentLine::Serial,
        ..machine
    };
    let mut guest = start(&machine, &image);
    let ready = guest.wait_ready().unwrap();
    println!("ready after {:?}", ready.after);
    assert_eq!(ready.hello.vcpus, 2);
    let fill = Ask::Fill {
        buffer: buffer(0),
        bytes: 1 << 20,
        pages: Pages::Small,
        generation: generation(1),
    };
    guest.ask(fill).unwrap().outcome.unwrap();
    guest.power_off().unwrap();
}

#[test]
fn a_panic_is_told_at_once_with_its_line() {
    let Some((machine, image)) = machine(&ImageOptions::default()) else {
        return;
    };
    let began = std::time::Instant::now();
    let machine = Machine {
        append: "rdinit=/none".to_owned(),
        ..machine
    };
    let mut guest = start(&machine, &image);
    let error = guest.wait_ready().unwrap_err();
    assert!(
        matches!(&error, LinuxError::Panic { line, .. } if line.contains("Kernel panic")),
        "{error}"
    );
    assert!(began.elapsed() < PATIENCE / 2);
}

#[test]
fn a_guest_without_a_line_says_which_option_it_lacks() {
    let Some((machine, image)) = machine(&ImageOptions::default()) else {
        return;
    };
    // microvm has one serial line only: no virtio-serial port and no second line.
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("initrd");
    std::fs::write(&bare, without_modules()).unwrap();
    let machine = Machine {
        start: Start::Kernel {
            kernel: image.kernel.clone(),
            initramfs: bare,
        },
        ..machine
    };
    let mut guest = start(&machine, &image);
    let error = guest.wait_ready().unwrap_err();
    assert!(
        matches!(&error, LinuxError::AgentDied { said, .. } if said.contains("no virtio-serial port")),
        "{error}"
    );
}

/// An initramfs with the agent only.
fn without_modules() -> Vec<u8> {
    let mut archive = tdxlab_l1::cpio::Archive::new(Vec::new());
    for folder in ["dev", "proc", "sys"] {
        archive.folder(folder).unwrap();
    }
    archive.character_device("dev/console", 5, 1).unwrap();
    archive
        .file("init", 0o755, tdxlab_guest_image::AGENT)
        .unwrap();
    archive.finish().unwrap()
}
