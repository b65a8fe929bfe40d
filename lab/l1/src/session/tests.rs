//! L1s that end in every way but success. Their lines are sockets of the test; their QEMU is a
//! process that sleeps or has ended.

use std::path::Path;
use std::sync::OnceLock;

use tdxlab_qemu::CommandLine;

use super::super::message::{Cause, Sender};
use super::*;

const ID: u64 = 42;

fn never() -> &'static Interrupt {
    static NEVER: OnceLock<Interrupt> = OnceLock::new();
    NEVER.get_or_init(Interrupt::new)
}

/// An L1 of which the test holds the other ends.
struct Played {
    session: Session<'static>,
    console: UnixStream,
    sender: Sender<UnixStream>,
    serial: Sender<UnixStream>,
}

impl Played {
    fn new(script: &str, report: Option<&Path>) -> Played {
        let line = CommandLine {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            only_small_pages: false,
        };
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            (ours, theirs)
        };
        let ((console_line, console), (port, port_end), (serial, serial_end)) =
            (pair(), pair(), pair());
        let session = Session {
            process: Process::start(&line, Vec::new()).unwrap(),
            console_line,
            lines: [port, serial],
            receivers: [Receiver::new(ID), Receiver::new(ID)],
            kernel: "linux-image-test",
            memory: Memory::USUAL,
            patience: Duration::from_secs(30),
            report: report.map(|folder| Incoming::new(folder, ID)),
            interrupt: never(),
            console: Console::new(),
            timing: Timing::default(),
            state: State::default(),
        };
        Played {
            session,
            console,
            sender: Sender::new(port_end, ID),
            serial: Sender::new(serial_end, ID),
        }
    }

    /// One that lives on after its words.
    fn living() -> Played {
        Played::new("sleep 600", None)
    }

    fn says(mut self, messages: &[Message]) -> Played {
        for message in messages {
            self.sender.send(message).unwrap();
        }
        self
    }

    fn prints(mut self, text: &str) -> Played {
        self.console.write_all(text.as_bytes()).unwrap();
        self
    }

    fn served(&mut self) -> (Result<Answer, L1Error>, Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut sink = Sink {
            out: &mut out,
            err: &mut err,
            note: &mut |_| {},
        };
        let answer = self.session.serve(&mut sink);
        (answer, out, err)
    }

    fn fails(&mut self) -> L1Error {
        self.served().0.unwrap_err()
    }
}

fn hello() -> Message {
    Message::Hello {
        release: "6.1.0".into(),
        line: "/dev/vport0p1".into(),
    }
}

fn output(stream: Stream, text: &str) -> Message {
    Message::Output {
        stream,
        bytes: text.into(),
    }
}

fn file(path: &str, size: u64) -> Message {
    Message::File {
        path: path.into(),
        size,
    }
}

const CODE_3: Message = Message::Ended(Ended::Code(3));
const COMMAND: Message = Message::Stage(Stage::Command);
const REPORT: Message = Message::Stage(Stage::Report);

#[test]
fn output_and_exit_code_come_through() {
    let (out, err) = (output(Stream::Out, "one\n"), output(Stream::Err, "two\n"));
    let all = [
        hello(),
        COMMAND,
        out,
        err,
        Message::Alive,
        CODE_3,
        Message::Done,
    ];
    let (answer, out, err) = Played::living().says(&all).served();
    let release = "6.1.0".to_owned();
    let ended = Ended::Code(3);
    assert_eq!(answer.unwrap(), Answer { ended, release });
    assert_eq!((&out[..], &err[..]), (&b"one\n"[..], &b"two\n"[..]));
}

#[test]
fn the_second_line_serves_where_there_is_no_first() {
    let mut played = Played::living();
    for message in [hello(), COMMAND, CODE_3, Message::Done] {
        played.serial.send(&message).unwrap();
    }
    assert_eq!(played.served().0.unwrap().ended, Ended::Code(3));
}

#[test]
fn a_panic_is_reported_while_qemu_still_runs() {
    let line = "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on \
                unknown-block(0,0)\n";
    let error = Played::living().prints(line).fails();
    let L1Error::Panic { line, advice, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        line.starts_with("Kernel panic - not syncing: VFS"),
        "{line}"
    );
    assert!(advice.contains("CONFIG_BLK_DEV_INITRD"), "{advice}");
}

#[test]
fn a_qemu_that_refuses_is_quoted() {
    let script =
        "echo \"qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory\" >&2; exit 1";
    let error = Played::new(script, None).fails();
    let L1Error::QemuRefused { said, advice } = error else {
        panic!("{error:?}");
    };
    assert!(said.contains("Cannot allocate memory"), "{said}");
    assert!(advice.contains("--memory"), "{advice}");
}

#[test]
fn an_end_without_an_answer_is_never_a_success() {
    for (said, doing) in [
        (vec![], "booting"),
        (vec![hello()], "starting"),
        (vec![hello(), COMMAND], "running the command"),
        (vec![hello(), COMMAND, CODE_3], "running the command"),
    ] {
        let error = Played::new("exit 0", None)
            .prints("[ 0.0] Linux\n")
            .says(&said)
            .fails();
        assert!(
            matches!(&error, L1Error::Died { doing: at, .. } if at == doing),
            "{error:?}"
        );
    }
}

#[test]
fn done_without_the_end_of_the_command_is_cut() {
    let error = Played::living()
        .says(&[hello(), COMMAND, Message::Done])
        .fails();
    assert!(matches!(error, L1Error::Cut { .. }), "{error:?}");
}

#[test]
fn an_l1_that_says_nothing_hangs() {
    let mut played = Played::living().says(&[hello(), COMMAND]);
    played.session.patience = Duration::from_millis(300);
    let error = played.fails();
    assert!(
        matches!(&error, L1Error::Hung { doing, .. } if doing == "running the command"),
        "{error:?}"
    );
}

#[test]
fn an_l1_that_only_prints_while_it_boots_hangs() {
    let mut played = Played::living();
    played.session.patience = Duration::from_millis(200);
    let mut console = played.console.try_clone().unwrap();
    std::thread::spawn(move || {
        while console.write_all(b"soft lockup\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = played.fails().to_string();
    assert!(error.contains("booting, but for words"), "{error}");
}

/// The command answered, but the kernel has killed something in it, such as a QEMU.
#[test]
fn memory_that_ran_out_beside_the_command_is_noted() {
    let line = "[ 9.9] Out of memory: Killed process 81 (qemu-system-x86) total-vm:1kB\n";
    let mut played =
        Played::living()
            .prints(line)
            .says(&[hello(), COMMAND, CODE_3, REPORT, Message::Done]);
    let mut notes = Vec::new();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let answer = played.session.serve(&mut Sink {
        out: &mut out,
        err: &mut err,
        note: &mut |text| notes.push(text.to_owned()),
    });
    assert_eq!(answer.unwrap().ended, Ended::Code(3));
    let [note] = notes.as_slice() else {
        panic!("{notes:?}");
    };
    assert!(
        note.contains("Killed process 81 (qemu-system-x86)"),
        "{note}"
    );
    assert!(note.contains("more than 6G with --memory"), "{note}");
}

#[test]
fn files_that_cannot_be_read_come_with_advice() {
    let cause = Cause::System {
        doing: "mount 9p".into(),
        errno: libc::EACCES,
        text: "Permission denied".into(),
    };
    let error = L1Error::told("k", Stage::Files, cause, Vec::new());
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(
        error.to_string().contains("mount 9p: Permission denied"),
        "{error}"
    );
    assert!(help.contains("must be able to read /"), "{help}");
}

#[test]
fn memory_that_ran_out_is_the_reason() {
    let line = "[ 9.9] Out of memory: Killed process 80 (tdxlab) total-vm:1kB\n";
    let killed = Message::Ended(Ended::Signal(libc::SIGKILL));
    let all = [hello(), COMMAND, killed, Message::Done];
    let error = Played::living().prints(line).says(&all).fails();
    assert!(matches!(error, L1Error::OutOfMemory { .. }), "{error:?}");
}

#[test]
fn a_report_cut_off_is_an_error_that_shows_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        hello(),
        COMMAND,
        CODE_3,
        REPORT,
        file("report.json", 100),
        Message::Data(vec![b'{']),
    ];
    let error = Played::new("exit 0", Some(folder.path()))
        .says(&all)
        .fails();
    let L1Error::Cut { advice, .. } = error else {
        panic!("{error:?}");
    };
    assert!(advice.contains("partial"), "{advice}");
    assert!(!folder.path().join("report.json").exists());
}

#[test]
fn a_report_nobody_ended_is_cut_even_if_all_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        hello(),
        COMMAND,
        CODE_3,
        REPORT,
        file("report.json", 0),
        Message::Done,
    ];
    let error = Played::new("sleep 600", Some(folder.path()))
        .says(&all)
        .fails();
    assert!(matches!(error, L1Error::Cut { .. }), "{error:?}");
}

#[test]
fn what_no_l1_can_say_is_a_lie() {
    let nobody_asked = [hello(), file("report.json", 1)];
    assert!(matches!(
        Played::living().says(&nobody_asked).fails(),
        L1Error::Lies { .. }
    ));
    let mut other_run = Played::living();
    other_run.session.receivers = [Receiver::new(7), Receiver::new(7)];
    assert!(matches!(
        other_run.says(&[hello()]).fails(),
        L1Error::Lies { .. }
    ));
}

#[test]
fn what_it_cannot_do_is_told_in_the_users_terms() {
    let failed = |stage, cause| Message::Failed {
        stage,
        cause,
        log: vec!["last".into()],
    };
    let told = |message| Played::living().says(&[hello(), message]).fails();
    let cause = Cause::Lacks {
        module: "kvm_amd".into(),
    };
    let error = told(failed(Stage::Kvm, cause));
    assert!(
        matches!(
            &error,
            L1Error::Lacks {
                option: "CONFIG_KVM_AMD",
                ..
            }
        ),
        "{error:?}"
    );
    let cause = Cause::Module {
        name: "9p".into(),
        errno: libc::ENOEXEC,
    };
    let error = told(failed(Stage::Modules, cause));
    assert!(error.to_string().contains("vermagic"), "{error}");
    let cause = Cause::System {
        doing: "mount 9p".into(),
        errno: libc::EIO,
        text: "Input/output error".into(),
    };
    let error = told(failed(Stage::Files, cause));
    let said = error.to_string();
    assert!(said.contains("mount 9p: Input/output error"), "{said}");
    let cause = Cause::Command {
        program: "nosuch".into(),
        errno: libc::ENOENT,
    };
    let error = told(failed(Stage::Command, cause));
    assert!(matches!(error, L1Error::NoCommand { .. }), "{error:?}");
}

#[test]
fn an_interrupt_ends_it() {
    let mut played = Played::living();
    static NOW: OnceLock<Interrupt> = OnceLock::new();
    let now = NOW.get_or_init(Interrupt::new);
    now.raise();
    played.session.interrupt = now;
    assert!(matches!(played.fails(), L1Error::Interrupted));
}
