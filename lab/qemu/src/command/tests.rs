//! Whole command lines: QEMU's options must not change unnoticed.

use tdxlab_protocol::addr::PageLevel;

use super::*;
use crate::ram::TestPages;

fn soft() -> QemuCommand {
    QemuCommand {
        program: "qemu-system-x86_64".into(),
        version: Version::new(7, 2),
        accelerator: Accelerator::Tcg,
        cpu: Cpu::Max,
        vcpus: 2,
        ram: Ram {
            mebibytes: 256,
            backing: RamBacking::Memfd,
        },
        image: Image::Inherited(7),
        qmp: Line::Inherited(4),
        monitor: None,
        serial: Line::Inherited(5),
        console: None,
        doorbell: Some(Line::Pipe(6)),
        td: None,
        paused: false,
    }
}

#[test]
fn soft_host() {
    insta::assert_snapshot!(soft().line(), @r#"
    qemu-system-x86_64 \
      -name tdxlab,debug-threads=on \
      -nodefaults \
      -no-user-config \
      -no-reboot \
      -display none \
      -accel tcg,thread=multi \
      -machine q35,smm=off,vmport=off,hpet=off,sata=off,i8042=off,pit=off,graphics=off,acpi=off,memory-backend=ram \
      -cpu max \
      -smp 2 \
      -m 256M \
      -object memory-backend-memfd,id=ram,size=256M,share=on \
      -bios /proc/self/fd/7 \
      -chardev socket,id=qmp,fd=4 \
      -mon chardev=qmp,mode=control \
      -chardev socket,id=serial,fd=5 \
      -serial chardev:serial \
      -chardev file,id=doorbell,path=/proc/self/fd/6 \
      -device isa-debugcon,iobase=0xe9,chardev=doorbell \
      -device isa-debug-exit,iobase=0xf4,iosize=1
    "#);
}

/// The options of `now` that `before` has not, and those that it lacks.
fn changed(before: &QemuCommand, now: &QemuCommand) -> String {
    let [before, now] = [before, now].map(|command| command.line().to_string());
    let only = |sign: char, of: &str, other: &str| -> String {
        let lines = of.lines().map(|line| line.trim_end_matches(" \\"));
        let all: Vec<&str> = other
            .lines()
            .map(|line| line.trim_end_matches(" \\"))
            .collect();
        let lines = lines.filter(|line| !all.contains(line));
        lines.map(|line| format!("{sign}{line}\n")).collect()
    };
    only('-', &before, &now) + &only('+', &now, &before)
}

#[test]
fn soft_host_for_pasting() {
    insta::assert_snapshot!(changed(&soft(), &soft().for_pasting()), @r#"
    -  -bios /proc/self/fd/7
    -  -chardev socket,id=qmp,fd=4
    -  -chardev socket,id=serial,fd=5
    -  -chardev file,id=doorbell,path=/proc/self/fd/6
    +  -bios guest.bin
    +  -chardev socket,id=qmp,path=qmp.sock,server=on,wait=off
    +  -chardev file,id=serial,path=serial.out
    +  -chardev file,id=doorbell,path=doorbell.out
    "#);
}

#[test]
fn plain_vm_on_huge_pages() {
    let command = QemuCommand {
        accelerator: Accelerator::Kvm,
        cpu: Cpu::Host,
        ram: Ram {
            mebibytes: 1024,
            backing: RamBacking::Parted {
                own_mebibytes: 512,
                test: TestPages::Hugetlb(PageLevel::Size2M),
            },
        },
        doorbell: None,
        ..soft()
    };
    insta::assert_snapshot!(command.line(), @r#"
    qemu-system-x86_64 \
      -name tdxlab,debug-threads=on \
      -nodefaults \
      -no-user-config \
      -no-reboot \
      -display none \
      -accel kvm,dirty-ring-size=4096 \
      -machine q35,smm=off,vmport=off,hpet=off,sata=off,i8042=off,pit=off,graphics=off,acpi=off \
      -cpu host \
      -smp 2 \
      -m 1024M \
      -object memory-backend-memfd,id=own,size=512M,share=on \
      -object memory-backend-memfd,id=test,size=512M,share=on,hugetlb=on,hugetlbsize=2M,reserve=on \
      -numa node,memdev=own \
      -numa node,memdev=test \
      -bios /proc/self/fd/7 \
      -chardev socket,id=qmp,fd=4 \
      -mon chardev=qmp,mode=control \
      -chardev socket,id=serial,fd=5 \
      -serial chardev:serial \
      -device isa-debug-exit,iobase=0xf4,iosize=1
    "#);
}

fn td(version: Version) -> QemuCommand {
    QemuCommand {
        version,
        accelerator: Accelerator::Kvm,
        cpu: Cpu::Host,
        console: Some(Line::Inherited(8)),
        doorbell: None,
        td: Some(Td {
            sept_ve_disable: false,
        }),
        paused: true,
        ..soft()
    }
}

/// QEMU 10.1 to 11.0: the monitor is a separate option.
#[test]
fn td_of_a_qemu_before_11_1() {
    let line = td(Version::new(10, 1)).line();
    for version in [Version::new(10, 2), Version::new(11, 0)] {
        assert_eq!(line, td(version).line());
    }
    insta::assert_snapshot!(line, @r#"
    qemu-system-x86_64 \
      -name tdxlab,debug-threads=on \
      -nodefaults \
      -no-user-config \
      -no-reboot \
      -display none \
      -accel kvm \
      -machine q35,confidential-guest-support=tdx0,smm=off,vmport=off,hpet=off,sata=off,i8042=off,pit=off,graphics=off,acpi=off,memory-backend=ram \
      -cpu host \
      -smp 2 \
      -m 256M \
      -object memory-backend-memfd,id=ram,size=256M,share=on \
      -object '{"qom-type":"tdx-guest","id":"tdx0","sept-ve-disable":false}' \
      -action reboot=shutdown,panic=exit-failure \
      -bios /proc/self/fd/7 \
      -chardev socket,id=qmp,fd=4 \
      -mon chardev=qmp,mode=control \
      -chardev socket,id=serial,fd=5 \
      -serial chardev:serial \
      -chardev socket,id=console,fd=8 \
      -serial chardev:console \
      -device isa-debug-exit,iobase=0xf4,iosize=1 \
      -S
    "#);
}

/// QEMU 11.1 and newer: the monitor is an object. This one is as large as they come: several vCPUs,
/// memory above 4 GiB, and a touch before ACCEPT that kills.
#[test]
fn td_of_a_qemu_from_11_1_on() {
    let large = |version| QemuCommand {
        vcpus: 4,
        ram: Ram {
            mebibytes: 6144,
            backing: RamBacking::Memfd,
        },
        td: Some(Td {
            sept_ve_disable: true,
        }),
        ..td(version)
    };
    let newer = large(Version::new(11, 1));
    assert_eq!(newer.line(), large(Version::new(12, 0)).line());
    insta::assert_snapshot!(changed(&td(Version::new(10, 1)), &newer), @r#"
    -  -smp 2
    -  -m 256M
    -  -object memory-backend-memfd,id=ram,size=256M,share=on
    -  -object '{"qom-type":"tdx-guest","id":"tdx0","sept-ve-disable":false}'
    -  -mon chardev=qmp,mode=control
    +  -smp 4
    +  -m 6144M
    +  -object memory-backend-memfd,id=ram,size=6144M,share=on
    +  -object '{"qom-type":"tdx-guest","id":"tdx0","sept-ve-disable":true}'
    +  -object monitor-qmp,id=monitor,chardev=qmp
    "#);
}

/// A person's QEMU runs at once: there is no lab to say `cont`.
#[test]
fn td_for_pasting() {
    let td = td(Version::new(11, 1));
    insta::assert_snapshot!(changed(&td, &td.for_pasting()), @r#"
    -  -bios /proc/self/fd/7
    -  -chardev socket,id=qmp,fd=4
    -  -chardev socket,id=serial,fd=5
    -  -chardev socket,id=console,fd=8
    -  -S
    +  -bios guest.bin
    +  -chardev socket,id=qmp,path=qmp.sock,server=on,wait=off
    +  -chardev file,id=serial,path=serial.out
    +  -chardev file,id=console,path=console.out
    "#);
}

#[test]
fn a_shell_reads_back_what_was_written() {
    let line = CommandLine {
        program: "printf".into(),
        args: vec!["%s|".into(), "it's".into(), "".into(), "a,b $HOME".into()],
        only_small_pages: false,
    };
    let said = std::process::Command::new("sh")
        .arg("-c")
        .arg(line.to_string())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "it's||a,b $HOME|");
}

#[test]
fn commas_in_paths_are_doubled() {
    let line = Line::Listen("/tmp/a,b/qmp.sock".into());
    assert_eq!(
        line.chardev("qmp"),
        "socket,id=qmp,path=/tmp/a,,b/qmp.sock,server=on,wait=off"
    );
}
