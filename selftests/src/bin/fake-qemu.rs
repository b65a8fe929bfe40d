//! A QEMU that misbehaves, for tests of the lab.
//!
//! The name of the program selects the fault. Up to that point it behaves like QEMU and the micro
//! guest: it answers `--version`, takes its ends of the lines from its command line, greets on QMP,
//! has its memory in a memfd with a mailbox in it, and speaks the guest's protocol.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::codec::DELIMITER;
use tdxlab_protocol::frame::{self, Decoder, MAX_FRAME};
use tdxlab_protocol::layout::MAILBOX_START;
use tdxlab_protocol::mailbox::*;
use tdxlab_protocol::message::{
    Access, Command, Counts, Hello, Reply, Request, Run, Task, VERSION, VcpuId,
};

fn main() {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let fault = program.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<String> = args.collect();
    if args == ["--version"] {
        match fault.as_str() {
            "too-old" => println!("QEMU emulator version 4.2.1 (Debian 1:4.2-3)"),
            "no-qemu" => println!("hello"),
            _ => println!("QEMU emulator version 9.9.0 (fake)"),
        }
        return;
    }
    Fake::new(fault, &args).run();
}

/// The lines to the lab, and what to do wrong.
struct Fake {
    fault: String,
    qmp: UnixStream,
    serial: UnixStream,
    doorbell: File,
    vcpus: u16,
    /// What QEMU would have its guest's memory in: found by its name.
    memory: File,
}

impl Fake {
    fn new(fault: String, args: &[String]) -> Fake {
        if fault == "dies-at-start" {
            complain_and_die("qemu-system-x86_64: -machine q35: the machine is broken");
        }
        if fault == "aborts-on-cpu-host" && args.windows(2).any(|pair| pair == ["-cpu", "host"]) {
            eprintln!("error: failed to set MSR 0x48b to 0x1");
            std::process::abort();
        }
        if fault == "no-memfd" {
            complain_and_die(
                "qemu-system-x86_64: -object memory-backend-memfd,id=ram,size=64M: invalid object \
                 type: memory-backend-memfd",
            );
        }
        let mut sockets = HashMap::new();
        let mut doorbell = None;
        let mut vcpus = 1;
        let mut bytes = 0;
        for pair in args.windows(2) {
            match (pair[0].as_str(), pair[1].split_once(",fd=")) {
                ("-chardev", Some((id, fd))) => {
                    let id = id.trim_start_matches("socket,id=").to_owned();
                    // SAFETY: the lab has left this file descriptor to us.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd.parse().expect("a number")) };
                    sockets.insert(id, UnixStream::from(fd));
                }
                ("-chardev", None) => {
                    let path = pair[1].strip_prefix("file,id=doorbell,path=");
                    doorbell = path.map(|path| File::create(path).expect("a pipe"));
                }
                ("-smp", _) => vcpus = pair[1].parse().expect("a number"),
                ("-m", _) => {
                    let mebibytes: u64 = pair[1].trim_end_matches('M').parse().expect("a size");
                    bytes = mebibytes << 20;
                }
                _ => {}
            }
        }
        let mut socket = |id: &str| sockets.remove(id).expect("the lab gives all lines");
        Fake {
            qmp: socket("qmp"),
            serial: socket("serial"),
            doorbell: doorbell.expect("the lab gives all lines"),
            vcpus,
            memory: memory(bytes),
            fault,
        }
    }

    fn run(mut self) {
        if self.fault == "hangs" {
            sleep_for_ever();
        }
        let monitor = self.qmp.try_clone().expect("a socket");
        let fault = self.fault.clone();
        thread::spawn(move || serve_monitor(monitor, &fault));
        match self.fault.as_str() {
            "noise" => loop {
                if self.serial.write_all(&[0x55; 512]).is_err() {
                    exit(0);
                }
            },
            "never-boots" => sleep_for_ever(),
            "resets" => {
                self.event(r#""SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}"#);
                exit(0);
            }
            _ => {}
        }
        self.say(&Reply::Hello(Hello {
            version: VERSION + u16::from(self.fault == "other-version"),
            td: false,
            vcpus: self.vcpus + u16::from(self.fault == "too-many-vcpus"),
            gpa_width: 48,
            attributes: 0,
            pending_ve_disabled: None,
        }));
        let mut decoder = Decoder::<Request>::new();
        let mut byte = [0];
        while self.serial.read_exact(&mut byte).is_ok() {
            let frame = match byte[0] {
                DELIMITER => take_frame(&self.memory),
                _ => byte.to_vec(),
            };
            let mut bytes = frame.as_slice();
            match decoder.feed(&mut bytes) {
                Some(Ok(Request::Configure { .. })) => {
                    self.say(&Reply::Ready { vcpus: self.vcpus })
                }
                Some(Ok(Request::Run { id, tasks })) => self.answer(id, &tasks),
                Some(Ok(Request::PowerOff { .. })) => exit(0),
                Some(Err(error)) => complain_and_die(&format!("the lab sent {error}")),
                None => {}
            }
        }
    }

    /// Carries out the fault in place of a task, or the task.
    fn answer(&mut self, id: u32, tasks: &[Task]) {
        match self.fault.as_str() {
            "dies-in-step" => complain_and_die("qemu-system-x86_64: tcg: out of luck"),
            "hangs-in-step" | "silent" => return,
            "nonsense-in-step" => {
                let _ = self.qmp.write_all(b"*** buffer overflow detected ***\n");
                return;
            }
            "panics" => {
                self.say(&Reply::Panic {
                    vcpu: VcpuId(0),
                    file: "src/window.rs".try_into().expect("short"),
                    line: 77,
                    message: "no such page".try_into().expect("short"),
                });
                // As after a triple fault, which a panic may end in.
                exit(0);
            }
            "garbage" => {
                let _ = self.serial.write_all(b"\x01\xff\xfe\xfd garbage\0");
                return;
            }
            "rings" => {
                let _ = self.doorbell.write_all(&[63]);
                return;
            }
            "rings-idle" => {
                let _ = self.doorbell.write_all(&[0]);
                return;
            }
            "rings-without-reply" => {
                let _ = self.doorbell.write_all(&[OUTBOX_BELL]);
                return;
            }
            "reply-too-long" => return self.post(&[], MAX_FRAME as u32 + 1),
            "half-a-reply" => return self.post(b"\0half", 5),
            "stopped" => return,
            _ => {}
        }
        for task in tasks {
            let runs = self.runs(task);
            for runs in runs.chunks(16) {
                self.say(&Reply::Part {
                    id,
                    vcpu: task.vcpu,
                    runs: runs.iter().cloned().collect(),
                });
            }
            self.say(&Reply::Finished {
                id,
                vcpu: task.vcpu,
                counts: Counts {
                    tdcalls: 1 << 20,
                    ..Counts::default()
                },
            });
        }
        let id = id + u32::from(self.fault == "answers-another-request");
        self.say(&Reply::Idle { id });
    }

    /// Results of a healthy guest, altered by the fault.
    fn runs(&self, task: &Task) -> Vec<Run> {
        let Command::Fill { range, .. } = task.command else {
            complain_and_die("only fills are faked");
        };
        let count = u32::try_from(range.pages_4k()).expect("a small range");
        let (start, count) = match self.fault.as_str() {
            "lies-about-place" => (Gpa::new(range.start().as_u64() + 0x1000), count - 1),
            "lies-about-count" => (range.start(), count * 2),
            "says-half" => (range.start(), count / 2),
            "floods" => {
                return (0..1 << 20)
                    .map(|page| Run::Access {
                        start: Gpa::new(range.start().as_u64() + (page << 12)),
                        count: 1,
                        outcome: [Access::Done, Access::Ve][page as usize % 2],
                    })
                    .collect();
            }
            _ => (range.start(), count),
        };
        vec![Run::Access {
            start,
            count,
            outcome: Access::Done,
        }]
    }

    fn say(&mut self, reply: &Reply) {
        let mut buffer = frame::EMPTY_FRAME;
        let bytes = frame::encode(reply, &mut buffer).expect("every reply fits");
        if self.serial.write_all(bytes).is_err() {
            exit(0);
        }
    }

    /// Puts a frame into the outbox.
    fn post(&mut self, frame: &[u8], length: u32) {
        let put = |offset, bytes: &[u8]| {
            self.memory
                .write_all_at(bytes, MAILBOX_START + OUTBOX + offset)
                .expect("in memory");
        };
        put(BOX_FRAME, frame);
        put(BOX_LENGTH, &length.to_le_bytes());
        put(BOX_STATE, &BOX_FULL.to_le_bytes());
        let _ = self.doorbell.write_all(&[OUTBOX_BELL]);
    }

    fn event(&mut self, event: &str) {
        let greeting = format!("{GREETING}\n");
        let event =
            format!("{{\"timestamp\":{{\"seconds\":1,\"microseconds\":2}},\"event\":{event}}}\n");
        let _ = self.qmp.write_all((greeting + &event).as_bytes());
    }
}

const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":0,"minor":9,"major":9},"package":""},"capabilities":["oob"]}}"#;

/// Answers the monitor's commands.
fn serve_monitor(mut monitor: UnixStream, fault: &str) {
    match fault {
        "resets" => return,
        "nonsense-on-qmp" => {
            let _ = monitor.write_all(b"QEMU monitor - type 'help' for more information\n");
            return;
        }
        _ => {}
    }
    let _ = writeln!(monitor, "{GREETING}");
    let Ok(commands) = monitor.try_clone() else {
        return;
    };
    for command in BufReader::new(commands).lines().map_while(Result::ok) {
        let name = command
            .split("\"execute\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default();
        let id = command
            .rsplit("\"id\":")
            .next()
            .unwrap_or_default()
            .trim_end_matches('}');
        let value = match (name, fault) {
            ("query-status", "hangs-in-step") => continue,
            ("query-status", "stopped") => r#"{"running":false,"status":"internal-error"}"#,
            ("query-status", _) => r#"{"running":true,"status":"running"}"#,
            ("query-cpus-fast", _) => {
                r#"[{"cpu-index":0,"qom-path":"/cpu","thread-id":4242,"target":"x86_64"}]"#
            }
            _ => "{}",
        };
        let _ = writeln!(monitor, "{{\"return\":{value},\"id\":{id}}}");
    }
}

/// What `memory-backend-memfd` has, with the mailbox of a guest in it.
fn memory(bytes: u64) -> File {
    let memfd = memfd_create(c"memory-backend-memfd", MFdFlags::MFD_CLOEXEC);
    let file = File::from(memfd.expect("a memfd"));
    file.set_len(bytes).expect("sparse");
    let header = |offset, bytes: &[u8]| {
        file.write_all_at(bytes, MAILBOX_START + offset)
            .expect("in memory");
    };
    header(HEADER_VERSION, &u32::from(VERSION).to_le_bytes());
    header(HEADER_MAGIC, &MAGIC.to_le_bytes());
    file
}

/// The frame in the inbox; a delimiter without one is an empty frame.
fn take_frame(memory: &File) -> Vec<u8> {
    const START: u64 = MAILBOX_START + INBOX;
    let number = |offset| {
        let mut word = [0; 4];
        memory
            .read_exact_at(&mut word, START + offset)
            .expect("in memory");
        u32::from_le_bytes(word)
    };
    if number(BOX_STATE) != BOX_FULL {
        return vec![DELIMITER];
    }
    let mut frame = vec![0; number(BOX_LENGTH) as usize];
    memory
        .read_exact_at(&mut frame, START + BOX_FRAME)
        .expect("in memory");
    memory
        .write_all_at(&BOX_EMPTY.to_le_bytes(), START + BOX_STATE)
        .expect("in memory");
    frame
}

fn complain_and_die(words: &str) -> ! {
    eprintln!("{words}");
    exit(1)
}

fn sleep_for_ever() -> ! {
    loop {
        thread::park();
    }
}
