//! Guests that die, hang, and lie. Their QEMU is a script that writes the test's bytes on the
//! guest's lines, and then sleeps or exits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tdxlab_linux::machine::Start;
use tdxlab_linux::{LinuxError, LinuxGuest, Machine};
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::frame::{self, EMPTY_FRAME};
use tdxlab_protocol::linux::{
    Ask, BufferId, Extent, Finding, LinuxHello, LinuxReply, Outcome, Pages, VERSION,
};
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::Generation;
use tdxlab_qemu::interrupt::Interrupt;
use tdxlab_qemu::{Installed, Version};

const PATIENCE: Duration = Duration::from_secs(30);

/// A scripted guest: its bytes, and how its QEMU ends.
struct Played {
    folder: tempfile::TempDir,
    console: String,
    agent: Vec<u8>,
    then: &'static str,
}

impl Played {
    /// A silent guest that keeps running.
    fn new() -> Played {
        Played {
            folder: tempfile::tempdir().unwrap(),
            console: String::new(),
            agent: Vec::new(),
            then: "exec sleep 600",
        }
    }

    fn prints(mut self, text: &str) -> Played {
        self.console.push_str(text);
        self
    }

    fn says(mut self, reply: &LinuxReply) -> Played {
        let mut buffer = EMPTY_FRAME;
        self.agent
            .extend_from_slice(frame::encode(reply, &mut buffer).unwrap());
        self
    }

    fn ends(mut self, then: &'static str) -> Played {
        self.then = then;
        self
    }

    fn start(&self, patience: Duration) -> LinuxGuest {
        let file = |name: &str| self.folder.path().join(name);
        fs::write(file("console"), &self.console).unwrap();
        fs::write(file("agent"), &self.agent).unwrap();
        let qemu = Installed {
            program: file("qemu"),
            version: Version::new(11, 1),
            banner: String::new(),
        };
        fs::write(&qemu.program, script(self.folder.path(), self.then)).unwrap();
        fs::set_permissions(&qemu.program, fs::Permissions::from_mode(0o755)).unwrap();
        let start = Start::Kernel {
            kernel: "kernel".into(),
            initramfs: "initrd".into(),
        };
        let machine = Machine::small(&qemu, start);
        LinuxGuest::start(machine, "linux-played", Interrupt::of_process(), patience).unwrap()
    }

    fn boots(&self) -> LinuxError {
        self.start(PATIENCE).wait_ready().unwrap_err()
    }

    /// Result of a fill of 8 pages.
    fn fills(&self) -> Result<Outcome, LinuxError> {
        self.fill().map(|(_, filled)| filled)
    }

    /// Result of a verify after the fill.
    fn verifies(&self) -> Result<Outcome, LinuxError> {
        let (mut guest, _) = self.fill()?;
        let buffer = BufferId::new(0).unwrap();
        Ok(guest.ask(Ask::Verify { buffer })?.outcome.unwrap())
    }

    fn fill(&self) -> Result<(LinuxGuest, Outcome), LinuxError> {
        let mut guest = self.start(PATIENCE);
        guest.wait_ready().unwrap();
        let fill = Ask::Fill {
            buffer: BufferId::new(0).unwrap(),
            bytes: 8 << 12,
            pages: Pages::Small,
            generation: Generation::new(1).unwrap(),
        };
        let filled = guest.ask(fill)?.outcome.unwrap();
        Ok((guest, filled))
    }
}

/// A QEMU that finds the descriptors of its lines in its arguments, as QEMU does.
fn script(folder: &Path, then: &str) -> String {
    let folder = folder.display();
    format!(
        "#!/bin/bash\n\
         for word in \"$@\"; do case $word in\n  \
         socket,id=console,fd=*) cat {folder}/console >&\"${{word##*=}}\" ;;\n  \
         socket,id=agent,fd=*) cat {folder}/agent >&\"${{word##*=}}\" ;;\n\
         esac; done\n{then}\n"
    )
}

fn hello() -> LinuxHello {
    LinuxHello {
        version: VERSION,
        td: false,
        vcpus: 1,
        release: "6.1".try_into().unwrap(),
        uptime_ms: 900,
        kexec: false,
        converts: false,
    }
}

fn ready() -> Played {
    Played::new().says(&LinuxReply::Hello(hello()))
}

#[test]
fn a_panic_ends_the_wait_at_once_and_its_oops_is_the_cause() {
    let error = Played::new()
        .prints("[    1.2] BUG: kernel NULL pointer dereference, address: 0000000000000008\n")
        .prints("[    1.3] Kernel panic - not syncing: Fatal exception\n")
        .boots();
    let LinuxError::Panic { line, console, .. } = &error else {
        panic!("{error}")
    };
    assert!(line.starts_with("BUG: kernel NULL pointer"), "{line}");
    assert_eq!(console.len(), 2);
}

#[test]
fn an_agent_that_gives_up_is_quoted_from_wherever_it_says_so() {
    let error = Played::new()
        .prints("tdxlab-agent: panicked at src/main.rs:40: there is no virtio-serial port x\r\n")
        .ends("exit 0")
        .boots();
    assert!(
        matches!(&error, LinuxError::AgentDied { advice, .. } if advice.contains("CONFIG_VIRTIO_CONSOLE")),
        "{error}"
    );

    let text = |text: &str| text.try_into().unwrap();
    let panic = LinuxReply::Panic {
        file: text("src/x.rs"),
        line: 7,
        message: text("no"),
    };
    let error = Played::new().says(&panic).boots();
    assert!(
        matches!(&error, LinuxError::AgentPanic { line: 7, .. }),
        "{error}"
    );
    let error = ready().says(&panic).fills().unwrap_err();
    assert!(
        error.to_string().contains("while filling buffer 0"),
        "{error}"
    );
}

#[test]
fn a_silent_guest_is_waited_for_as_long_as_was_asked() {
    let silent = Played::new();
    let error = silent
        .start(Duration::from_secs(1))
        .wait_ready()
        .unwrap_err();
    assert!(
        matches!(&error, LinuxError::Hung { advice, .. } if advice.contains("earlyprintk")),
        "{error}"
    );
    let silent = ready();
    let mut guest = silent.start(Duration::from_secs(1));
    guest.wait_ready().unwrap();
    let error = guest.ask(Ask::Hello).unwrap_err();
    assert!(matches!(error, LinuxError::Hung { .. }), "{error}");
}

/// As a kernel whose processor is stuck does.
#[test]
fn a_guest_that_only_prints_is_not_waited_for_for_ever() {
    // By what the shell does itself: on a busy machine, to start a program may take longer than the patience.
    let babbles = Played::new().ends(
        "for word in \"$@\"; do case $word in socket,id=console,fd=*) fd=${word##*=} ;; esac; done\n\
         while echo 'watchdog: BUG: soft lockup - CPU#0 stuck for 26s!' >&$fd; do read -rt 0.1 -u $fd; done",
    );
    let error = babbles
        .start(Duration::from_secs(1))
        .wait_ready()
        .unwrap_err();
    assert!(matches!(&error, LinuxError::Babbles { .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("while it booted") && told.contains("10 times"),
        "{told}"
    );
}

#[test]
fn a_qemu_that_ends_is_quoted() {
    let error = Played::new()
        .ends("echo 'qemu: unsupported machine type' >&2; exit 1")
        .boots();
    assert!(
        error.to_string().contains("unsupported machine type"),
        "{error}"
    );
    assert!(
        matches!(&error, LinuxError::Ended { advice, .. } if advice.contains("board")),
        "{error}"
    );
    let error = ready().ends("exit 3").fills().unwrap_err();
    assert!(matches!(error, LinuxError::Ended { .. }), "{error}");
}

#[test]
fn greetings_of_other_guests_are_refused() {
    let says = |hello: LinuxHello| Played::new().says(&LinuxReply::Hello(hello)).boots();
    let error = says(LinuxHello {
        version: 9,
        ..hello()
    });
    assert!(
        matches!(error, LinuxError::Version { guest: 9, .. }),
        "{error}"
    );
    for hello in [
        LinuxHello {
            vcpus: 2,
            ..hello()
        },
        LinuxHello {
            vcpus: 0,
            ..hello()
        },
        LinuxHello {
            td: true,
            ..hello()
        },
        LinuxHello {
            kexec: true,
            ..hello()
        },
    ] {
        let error = says(hello);
        assert!(matches!(error, LinuxError::Lies { .. }), "{error}");
    }
    let error = Played::new()
        .says(&LinuxReply::Progress { id: 1, bytes: 0 })
        .boots();
    assert!(matches!(error, LinuxError::Lies { .. }), "{error}");
}

#[test]
fn endless_noise_is_no_greeting() {
    let mut played = Played::new();
    played.agent = b"\xffnoise\0".repeat(20_000);
    let error = played.boots();
    assert!(error.to_string().contains("no greeting"), "{error}");
}

fn extents(id: u32, start: u64, pages: u32) -> LinuxReply {
    let extents = [Extent {
        start: Gpa::new(start),
        pages,
    }];
    LinuxReply::Extents {
        id,
        extents: extents.into_iter().collect(),
    }
}

fn done(id: u32, outcome: Outcome) -> LinuxReply {
    LinuxReply::Done { id, outcome }
}

const FILLED: Outcome = Outcome::Filled {
    bytes: 8 << 12,
    huge: 0,
};

#[test]
fn answers_that_cannot_be_are_refused_with_their_words() {
    assert_eq!(
        ready()
            .says(&extents(1, 0x10_0000, 8))
            .says(&done(1, FILLED))
            .fills()
            .unwrap(),
        FILLED
    );
    let cases = [
        (vec![done(1, FILLED)], "0 of 8 pages"),
        (vec![extents(2, 0x10_0000, 8)], "another request"),
        (vec![extents(1, 0x10_0000, 9)], "more pages"),
        (
            vec![extents(1, 0x2000_0000, 8)],
            "memory that the guest does not have",
        ),
        (
            vec![extents(1, 0x10_0800, 8)],
            "memory that the guest does not have",
        ),
        (
            vec![extents(1, u64::MAX - 0xfff, 8)],
            "memory that the guest does not have",
        ),
        (vec![extents(1, 0x10_0000, 0)], "without pages"),
        (
            vec![extents(1, 0x10_0000, 8), done(1, Outcome::Done)],
            "another end",
        ),
        (
            vec![
                extents(1, 0x10_0000, 8),
                done(
                    1,
                    Outcome::Filled {
                        bytes: 8 << 12,
                        huge: 1 << 21,
                    },
                ),
            ],
            "was not asked for",
        ),
        (
            vec![
                LinuxReply::Progress { id: 1, bytes: 9 },
                LinuxReply::Progress { id: 1, bytes: 8 },
            ],
            "goes back",
        ),
        (vec![LinuxReply::Hello(hello())], "does not belong"),
        (
            vec![LinuxReply::Bytes {
                id: 1,
                bytes: [1].into_iter().collect(),
            }],
            "bytes that were not asked for",
        ),
    ];
    for (replies, why) in cases {
        let played = replies.iter().fold(ready(), Played::says);
        let error = played.fills().unwrap_err();
        assert!(
            matches!(error, LinuxError::Lies { .. }) && error.to_string().contains(why),
            "{why}: {error}"
        );
    }
}

#[test]
fn findings_that_cannot_be_are_refused() {
    let finding = |page, count, content| Finding {
        page,
        count,
        at: Gpa::new(0x10_0000),
        filled_at: Gpa::new(0x10_0000),
        content,
    };
    let verified = |findings: &[Finding], wrong| {
        ready()
            .says(&extents(1, 0x10_0000, 8))
            .says(&done(1, FILLED))
            .says(&LinuxReply::Findings {
                id: 2,
                findings: findings.iter().cloned().collect(),
            })
            .says(&done(
                2,
                Outcome::Verified {
                    bytes: 8 << 12,
                    wrong,
                    moved: 0,
                },
            ))
            .verifies()
    };
    let foreign = |distance| Content::Foreign {
        generation: Generation::MAX,
        distance,
    };
    assert!(
        verified(
            &[finding(1, 2, Content::Zero), finding(5, 1, foreign(-9))],
            3
        )
        .is_ok()
    );
    let first = Generation::new(1).unwrap();
    for (findings, wrong, why) in [
        (
            vec![finding(1, 2, Content::Zero)],
            3,
            "2 wrong pages reported",
        ),
        (vec![finding(7, 2, Content::Zero)], 2, "does not have"),
        (
            vec![finding(2, 1, Content::Zero), finding(1, 1, Content::Zero)],
            2,
            "go back",
        ),
        (
            vec![finding(2, 1, Content::Own(first))],
            1,
            "an intact page",
        ),
        (
            vec![finding(2, 1, Content::NotAccepted)],
            1,
            "read and not read",
        ),
        (vec![finding(2, 1, foreign(0))], 1, "foreign to itself"),
        (vec![finding(2, 1, foreign(0x101))], 1, "name no page"),
        (
            vec![finding(
                2,
                2,
                Content::Torn {
                    like_first: 1,
                    words: [(0, 7)].into_iter().collect(),
                },
            )],
            2,
            "torn",
        ),
        (
            vec![finding(
                2,
                1,
                Content::Torn {
                    like_first: 1,
                    words: [(0, 7), (512, 7)].into_iter().collect(),
                },
            )],
            1,
            "torn",
        ),
    ] {
        let error = verified(&findings, wrong).unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_is_refused() {
    const MOST: u32 = 8;
    let read = |replies: &[LinuxReply]| {
        let played = replies.iter().fold(ready(), Played::says);
        let mut guest = played.start(PATIENCE);
        guest.wait_ready().unwrap();
        let path = "/etc/os-release".try_into().unwrap();
        guest.ask(Ask::ReadFile { path, most: MOST })
    };
    let bytes = |count: usize| LinuxReply::Bytes {
        id: 1,
        bytes: core::iter::repeat_n(b'x', count).collect(),
    };
    let end = |bytes, cut| done(1, Outcome::Read { bytes, cut });
    for (replies, whole) in [
        (vec![end(0, false)], true),
        (vec![bytes(3), bytes(5), end(8, false)], true),
        (vec![bytes(8), end(8, true)], false),
    ] {
        let cut = read(&replies).unwrap().outcome.unwrap();
        let Outcome::Read { cut, .. } = cut else {
            panic!("{cut:?}")
        };
        assert_eq!(cut, !whole);
    }
    for (replies, why) in [
        (vec![bytes(9)], "more than 8 of them"),
        (vec![bytes(8), bytes(1)], "more than 8 of them"),
        (vec![bytes(0)], "no bytes"),
        (vec![bytes(3), end(4, false)], "3 bytes sent, and done"),
        (vec![bytes(3), end(3, true)], "3 bytes sent, and done"),
        (vec![done(1, Outcome::Done)], "another end"),
        (vec![extents(1, 0x10_0000, 1)], "not asked for"),
    ] {
        let error = read(&replies).unwrap_err();
        assert!(
            matches!(error, LinuxError::Lies { .. }) && error.to_string().contains(why),
            "{why}: {error}"
        );
    }
    // A guest that sends half of a file and dies.
    let half = ready().says(&bytes(3)).ends("exit 3");
    let mut guest = half.start(PATIENCE);
    guest.wait_ready().unwrap();
    let path = "/etc/os-release".try_into().unwrap();
    let error = guest.ask(Ask::ReadFile { path, most: MOST }).unwrap_err();
    assert!(
        error.to_string().contains("while reading /etc/os-release"),
        "{error}"
    );
}
