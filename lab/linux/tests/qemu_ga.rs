//! Debian's qemu-ga in a plain guest under TCG: the agent is pushed into the lab's own image and into a
//! disk, and every way to fail there.
//!
//! Needs QEMU, a packaged kernel and qemu-ga's packages, which the first run fetches; mke2fs, mtools and
//! SYSLINUX for disks. Where one is missing the tests say so and are skipped.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miette::Diagnostic;
use nix::errno::Errno;
use tdxlab_l1::package::cache_folder;
use tdxlab_l1::program;
use tdxlab_linux::disk::Disk;
use tdxlab_linux::image::First;
use tdxlab_linux::machine::Start;
use tdxlab_linux::{Board, ImageOptions, LinuxError, LinuxGuest, LinuxImage, Machine};
use tdxlab_protocol::linux::{Ask, BufferId, Load, Outcome, Pages, QEMU_GA, SMALL_TMP, Witness};
use tdxlab_protocol::pattern::Generation;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, Version};

const PATIENCE: Duration = Duration::from_secs(120);

/// Says what is missing.
fn missing<T>(what: &str) -> Option<T> {
    eprintln!("NOT TESTED: {what}");
    assert!(
        std::env::var_os("TDXLAB_REQUIRE_L1").is_none(),
        "TDXLAB_REQUIRE_L1 is set"
    );
    None
}

/// A machine whose first process does that; `None`, with a message, if something is missing.
fn machine(first: First, append: &str) -> Option<Machine> {
    let qemu = match Installed::find(Version::new(7, 2)) {
        Ok(qemu) => qemu,
        Err(error) => return missing(&error.to_string()),
    };
    let options = ImageOptions {
        first,
        ..ImageOptions::default()
    };
    let image = match LinuxImage::prepare(&options) {
        Ok(image) => image,
        Err(error) => return missing(&error.to_string()),
    };
    Some(Machine {
        qemu_ga: true,
        append: append.to_owned(),
        line: image.line,
        ..Machine::small(&qemu, image.start())
    })
}

fn start(machine: Machine, patience: Duration) -> LinuxGuest {
    LinuxGuest::start(machine, "the guest's", Interrupt::of_process(), patience).unwrap()
}

/// The error's message and its remedy.
fn told(error: &LinuxError) -> String {
    let help = error.help().map(|help| help.to_string());
    format!("{error}; {}", help.unwrap_or_default())
}

/// Fills, verifies and loads, as on any guest.
fn works(guest: &mut LinuxGuest) {
    let buffer = BufferId::new(0).unwrap();
    let bytes = 4 << 20;
    let fill = Ask::Fill {
        buffer,
        bytes,
        pages: Pages::Small,
        generation: Generation::new(1).unwrap(),
    };
    let filled = guest.ask(fill).unwrap();
    assert_eq!(filled.outcome, Ok(Outcome::Filled { bytes, huge: 0 }));
    let pages: u32 = filled.extents.iter().map(|extent| extent.pages).sum();
    assert_eq!(u64::from(pages), bytes / 4096);
    let load = Load::Touch {
        bytes: 32 << 20,
        processes: 2,
    };
    let loaded = guest.ask(Ask::Load(load)).unwrap();
    assert!(
        matches!(loaded.outcome, Ok(Outcome::Loaded { failed: 0, .. })),
        "{loaded:?}"
    );
    let verified = guest.ask(Ask::Verify { buffer }).unwrap();
    let intact = Outcome::Verified {
        bytes,
        wrong: 0,
        moved: 0,
    };
    assert_eq!(verified.outcome, Ok(intact));
}

/// Files come out alike by the agent and by qemu-ga, and both say why one cannot.
fn read_files(guest: &mut LinuxGuest) {
    let mut by_agent = |path: &str, most| {
        let path = path.try_into().unwrap();
        guest.ask(Ask::ReadFile { path, most }).unwrap()
    };
    let version = by_agent("/proc/version", 4096);
    assert!(version.bytes.starts_with(b"Linux version"));
    let start = by_agent("/proc/version", 5);
    assert_eq!(start.bytes, b"Linux");
    let cut = Outcome::Read {
        bytes: 5,
        cut: true,
    };
    assert_eq!(start.outcome, Ok(cut));
    for (path, why, errno) in [
        ("/no/such", "opening the file", Errno::ENOENT as i32),
        ("/proc", "it is a directory", 0),
        ("/dev/null", "it is a device, a pipe or a socket", 0),
        // Root may open what has no reader, but in sysfs.
        (
            "/sys/bus/pci/rescan",
            "opening the file",
            Errno::EACCES as i32,
        ),
        ("relative", "opening the file", Errno::ENOENT as i32),
    ] {
        let failure = by_agent(path, 4096).outcome.unwrap_err();
        assert_eq!(
            (failure.doing.as_str(), failure.errno),
            (why, errno),
            "{path}"
        );
    }
    assert_eq!(
        guest.read_file("/proc/version", 4096).unwrap(),
        Some(version.bytes)
    );
    for (path, says) in [
        ("/no/such", "guest-file-open failed while reading /no/such"),
        ("/proc", "guest-file-read failed while reading /proc"),
        ("/sys/bus/pci/rescan", "Permission denied"),
    ] {
        let error = guest.read_file(path, 4096).unwrap_err();
        assert!(told(&error).contains(says), "{error}");
        assert!(
            matches!(error, LinuxError::QemuGa { tried: true, .. }),
            "{error}"
        );
    }
}

#[test]
fn the_agent_is_pushed_works_and_the_system_switches_off() {
    let Some(machine) = machine(First::QemuGa, "") else {
        return;
    };
    let mut guest = start(machine, PATIENCE);
    let ready = guest.wait_ready().unwrap();
    let pushed = guest.pushed().unwrap().clone();
    println!(
        "ready after {:?}, of it {:?} to push {} bytes through qemu-ga {}",
        ready.after, pushed.took, pushed.bytes, pushed.version
    );
    assert_eq!(pushed.bytes, tdxlab_guest_image::AGENT.len() as u64);
    assert!(pushed.version.split('.').count() > 1, "{pushed:?}");
    works(&mut guest);

    // Both ways into the guest see the same.
    let iomem = guest.ask(Ask::Read(Witness::IoMem)).unwrap().bytes;
    assert_eq!(
        guest.read_file("/proc/iomem", 1 << 20).unwrap(),
        Some(iomem)
    );
    let log = guest.ask(Ask::Read(Witness::KernelLog)).unwrap().bytes;
    assert!(log.len() > 1000, "{} bytes of kernel log", log.len());
    read_files(&mut guest);

    // What is the system's is not the agent's.
    let kexec = guest.kexec().unwrap().unwrap_err();
    assert!(
        kexec
            .outcome
            .unwrap_err()
            .doing
            .contains("up to the system")
    );

    guest.power_off().unwrap();
    let evidence = guest.evidence();
    let trace = evidence.iter().find(|(name, _)| name == "qemu-ga.jsonl");
    let trace = String::from_utf8_lossy(&trace.unwrap().1).into_owned();
    assert!(trace.contains("guest-exec") && trace.contains("guest-shutdown"));
}

#[test]
fn a_file_system_that_is_full_is_told_with_what_was_written() {
    let small = format!("{SMALL_TMP}200k");
    let Some(machine) = machine(First::QemuGa, &small) else {
        return;
    };
    let mut guest = start(machine, PATIENCE);
    let told = told(&guest.wait_ready().unwrap_err());
    println!("{told}");
    let bytes = tdxlab_guest_image::AGENT.len();
    for says in [
        "while writing /tmp/tdxlab-agent: ",
        "No space left on device (GenericError), after ",
        &format!("of {bytes} bytes"),
        "is full: leave ",
    ] {
        assert!(told.contains(says), "{says}: {told}");
    }
}

#[test]
fn a_guest_without_qemu_ga_says_so() {
    // The agent is the first process, and nothing opens qemu-ga's port.
    let Some(machine) = machine(First::Agent, "") else {
        return;
    };
    // What is said does not depend on how far it has come.
    let mut guest = start(machine, Duration::from_secs(5));
    let told = told(&guest.wait_ready().unwrap_err());
    for says in [
        "no answer to guest-sync-delimited",
        "nothing in the guest has opened the port org.qemu.guest_agent.0",
        "install qemu-guest-agent",
    ] {
        assert!(told.contains(says), "{says}: {told}");
    }
}

#[test]
fn a_root_that_is_not_there_is_told_by_name() {
    let Some(machine) = machine(First::Root, "root=/dev/none") else {
        return;
    };
    let told = told(&start(machine, PATIENCE).wait_ready().unwrap_err());
    assert!(told.contains("there is no /dev/none"), "{told}");
}

/// An ext4 image with Debian's qemu-ga, and as its init the program that starts it.
fn disk(folder: &Path) -> Option<Disk> {
    let tree = folder.join("tree");
    let qemu_ga = match cache_folder()
        .and_then(|cache| program::program(&cache, "qemu-guest-agent", "qemu-ga"))
    {
        Ok(found) => found,
        Err(error) => return missing(&error.to_string()),
    };
    let write = |path: &Path, content: &[u8]| {
        let path = tree.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write(Path::new(QEMU_GA), &qemu_ga.program);
    let linker = qemu_ga.interpreter.unwrap();
    for (name, content) in &qemu_ga.libraries {
        match linker.ends_with(name) {
            true => write(&linker, content),
            false => write(&Path::new("/lib/x86_64-linux-gnu").join(name), content),
        }
    }
    write(Path::new("/sbin/init"), tdxlab_guest_image::AGENT);
    for folder in ["dev", "proc", "sys", "run", "tmp", "bin"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    symlink("init", tree.join("sbin/shutdown")).unwrap();
    symlink("../sbin/init", tree.join("bin/chmod")).unwrap();
    let image = folder.join("disk.img");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg("48M")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output();
    match made {
        Ok(output) if output.status.success() => Some(Disk::open(&image).unwrap()),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => missing(&format!("mke2fs cannot be run (e2fsprogs): {error}")),
    }
}

#[test]
fn a_disk_of_a_users_own_runs_the_agent_and_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let Some(machine) = machine(First::Root, "root=/dev/vda rw") else {
        return;
    };
    let Some(disk) = disk(folder.path()) else {
        return;
    };
    let before = fs::read(folder.path().join("disk.img")).unwrap();
    let mut guest = start(
        Machine {
            disk: Some(disk),
            ..machine
        },
        PATIENCE,
    );
    let ready = guest.wait_ready().unwrap();
    println!("ready after {:?}", ready.after);
    works(&mut guest);
    let mounts = guest.read_file("/proc/mounts", 1 << 16).unwrap().unwrap();
    let mounts = String::from_utf8_lossy(&mounts).into_owned();
    assert!(mounts.contains("/dev/vda / ext4 rw"), "{mounts}");
    guest.power_off().unwrap();
    let after = fs::read(folder.path().join("disk.img")).unwrap();
    assert!(before == after, "the image was written");
}

/// A disk that SYSLINUX boots, with that kernel and initramfs on it.
fn bootable(folder: &Path, kernel: &Path, initramfs: &Path, append: &str) -> Option<Disk> {
    let image = folder.join("bootable.img");
    let megabytes = 64 << 20;
    fs::File::create(&image)
        .unwrap()
        .set_len(megabytes)
        .unwrap();
    let settings = folder.join("syslinux.cfg");
    let text =
        format!("DEFAULT lab\nLABEL lab\n KERNEL vmlinuz\n INITRD initrd\n APPEND {append}\n");
    fs::write(&settings, text).unwrap();
    let image_path = image.to_str().unwrap();
    let copy = |from: &Path, name: &str| {
        let from = from.to_str().unwrap().to_owned();
        (
            "mcopy",
            vec![
                "-i".to_owned(),
                image_path.to_owned(),
                from,
                format!("::{name}"),
            ],
        )
    };
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    for (program, arguments) in [
        ("mformat", words(&["-i", image_path, "-F", "::"])),
        copy(kernel, "vmlinuz"),
        copy(initramfs, "initrd"),
        copy(&settings, "syslinux.cfg"),
        ("syslinux", words(&["--install", image_path])),
    ] {
        let output = match Command::new(program).args(&arguments).output() {
            Ok(output) => output,
            Err(error) => return missing(&format!("{program} cannot be run: {error}")),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
    }
    Some(Disk::open(&image).unwrap())
}

#[test]
fn a_disk_boots_by_its_own_loader() {
    let Some(machine) = machine(First::QemuGa, "") else {
        return;
    };
    let Start::Kernel { initramfs, .. } = &machine.start else {
        panic!("a kernel")
    };
    let cache = cache_folder().unwrap();
    let kernel = cache.join("kernels/linux-image-cloud-amd64/vmlinuz");
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = bootable(folder.path(), &kernel, initramfs, &machine.append()) else {
        return;
    };
    let mut guest = start(
        Machine {
            board: Board::Q35,
            start: Start::Disk { firmware: None },
            disk: Some(disk),
            ..machine
        },
        PATIENCE,
    );
    let ready = guest.wait_ready().unwrap();
    println!("ready after {:?}", ready.after);
    works(&mut guest);
    guest.power_off().unwrap();
}

#[test]
fn a_disk_without_a_boot_loader_is_told_at_once() {
    let Some(machine) = machine(First::Agent, "") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("empty.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let began = std::time::Instant::now();
    let mut guest = start(
        Machine {
            board: Board::Q35,
            start: Start::Disk { firmware: None },
            disk: Some(Disk::open(&image).unwrap()),
            ..machine
        },
        PATIENCE,
    );
    let told = told(&guest.wait_ready().unwrap_err());
    assert!(told.contains("no boot loader that it can start"), "{told}");
    assert!(told.contains("root=/dev/"), "{told}");
    assert!(began.elapsed() < PATIENCE / 2);
}
