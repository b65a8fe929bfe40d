//! A guest whose QEMU is a script that says all the agent has to say at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tdxlab_linux::Machine;
use tdxlab_linux::machine::Start;
use tdxlab_protocol::frame::{self, EMPTY_FRAME};
use tdxlab_protocol::linux::{LinuxHello, LinuxReply, VERSION};
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, Version};

use super::*;

/// Answers to requests, whose numbers begin at 1.
#[derive(Default)]
struct Played {
    said: Vec<u8>,
    requests: u32,
}

impl Played {
    fn says(&mut self, reply: &LinuxReply) {
        let mut buffer = EMPTY_FRAME;
        let frame = frame::encode(reply, &mut buffer).unwrap();
        self.said.extend_from_slice(frame);
    }

    fn greets(&mut self, kexec: bool) {
        self.says(&LinuxReply::Hello(LinuxHello {
            version: VERSION,
            td: false,
            vcpus: 1,
            release: "6.1".try_into().unwrap(),
            uptime_ms: 900,
            kexec,
            converts: false,
        }));
    }

    fn does(&mut self, outcome: Outcome) {
        let id = self.requests;
        self.says(&LinuxReply::Done { id, outcome });
    }

    fn reads(&mut self, text: &str) {
        self.requests += 1;
        let (id, bytes) = (self.requests, text.as_bytes());
        self.says(&LinuxReply::Bytes {
            id,
            bytes: bytes.try_into().unwrap(),
        });
        self.does(Outcome::Read {
            bytes: bytes.len() as u64,
            cut: false,
        });
    }

    /// What a boot is accounted by.
    fn accounts(&mut self, log: &str) {
        self.reads("00001000-1fffffff : System RAM\n");
        self.reads(log);
        self.reads("MemTotal: 500000 kB\n");
    }

    fn observer(&self, folder: &tempfile::TempDir) -> Observer {
        let file = |name: &str| folder.path().join(name);
        fs::write(file("agent"), &self.said).unwrap();
        let script = format!(
            "#!/bin/bash\nfor word in \"$@\"; do case $word in\n\
             socket,id=agent,fd=*) cat {} >&\"${{word##*=}}\" ;;\n\
             esac; done\nexec sleep 600\n",
            file("agent").display()
        );
        let qemu = Installed {
            program: file("qemu"),
            version: Version::new(11, 1),
            banner: String::new(),
        };
        fs::write(&qemu.program, script).unwrap();
        fs::set_permissions(&qemu.program, fs::Permissions::from_mode(0o755)).unwrap();
        let start = Start::Kernel {
            kernel: "kernel".into(),
            initramfs: "initrd".into(),
        };
        let machine = Machine::small(&qemu, start);
        let (interrupt, patience) = (Interrupt::of_process(), Duration::from_secs(30));
        let guest = LinuxGuest::start(machine, "linux-played", interrupt, patience).unwrap();
        Observer::new(guest, None)
    }
}

fn complaints(seen: Result<Seen, LinuxError>) -> Reading<Vec<String>> {
    match seen.unwrap() {
        Seen::Guest(account) => account.splats,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_log_of_a_kernel_that_ends_is_read_before_and_what_is_said_last_is_kept() {
    let boot = "6,0,0,-;Linux version\n";
    let warned = &format!("{boot}4,1,9,-;WARNING: CPU: 0 PID: 1 at mm/x.c:3\n");
    let mut played = Played::default();
    played.greets(false);
    played.accounts(boot);
    // Before the jump, which is one request, and a second that nobody answers.
    played.reads(warned);
    played.requests += 1;
    played.does(Outcome::Done);
    played.requests += 1;
    played.greets(true);
    played.accounts(boot);
    played.reads(warned);
    let folder = tempfile::tempdir().unwrap();
    let mut observer = played.observer(&folder);

    let none = Reading::Read(Vec::new());
    assert_eq!(complaints(observer.perform(&LinuxOp::Boot)), none);
    let old = complaints(observer.perform(&LinuxOp::Kexec));
    assert_eq!(old.value().map(Vec::len), Some(1), "{old:?}");
    assert_eq!(observer.unjudged(), None);
    observer.listen().unwrap();
    let last = observer.unjudged().unwrap();
    assert_eq!(last.value().map(Vec::len), Some(1), "{last:?}");
    observer.guest().end().unwrap();
}
