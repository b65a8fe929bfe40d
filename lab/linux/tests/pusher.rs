//! Brings the agent through a scripted qemu-ga: sound, refusing, dying, lying and hanging.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use miette::Diagnostic;
use rstest::rstest;
use serde_json::{Value, json};
use tdxlab_linux::LinuxError;
use tdxlab_linux::pusher::{PATH, Pushed, Pusher};

/// Longest that the played qemu-ga may be silent.
const PATIENCE: Duration = Duration::from_millis(400);

/// What a command is answered with: `None` is silence. Commands that are not here are answered soundly.
type Script = BTreeMap<&'static str, Vec<Option<String>>>;

/// A qemu-ga that follows a script.
struct Played {
    script: Script,
    /// What was written into the file.
    written: Vec<u8>,
    commands: Vec<Value>,
}

impl Played {
    /// Serves until the lab hangs up. Returns what it was asked.
    fn serve(mut self, guest: UnixStream) -> JoinHandle<Played> {
        std::thread::spawn(move || {
            let mut lines = BufReader::new(guest.try_clone().unwrap());
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                let text = line.strip_prefix(&[0xff]).unwrap_or(&line);
                let command: Value = serde_json::from_slice(text).unwrap();
                if let Some(answer) = self.answer(&command) {
                    let _ = (&guest).write_all(&answer);
                }
                self.commands.push(command);
                line.clear();
            }
            self
        })
    }

    fn answer(&mut self, command: &Value) -> Option<Vec<u8>> {
        let name = command["execute"].as_str().unwrap();
        let script = self.script.get_mut(name).filter(|left| !left.is_empty());
        if let Some(answers) = script {
            // The last one is for all that follow.
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.remove(0),
            };
            return answer.map(|text| format!("{text}\n").into_bytes());
        }
        let arguments = &command["arguments"];
        let value = match name {
            "guest-sync-delimited" => {
                let line = format!("\u{ff}{}\n", json!({"return": arguments["id"]}));
                return Some(line.chars().map(|letter| letter as u8).collect());
            }
            "guest-info" => {
                let names = [
                    "guest-file-open",
                    "guest-file-write",
                    "guest-file-flush",
                    "guest-file-close",
                    "guest-exec",
                    "guest-exec-status",
                ];
                let known =
                    |name: &&str| json!({"name": name, "enabled": true, "success-response": true});
                let commands: Vec<_> = names.iter().map(known).collect();
                json!({"version": "10.0.2", "supported_commands": commands})
            }
            "guest-file-open" => json!(1000),
            "guest-file-write" => {
                let text = arguments["buf-b64"].as_str().unwrap();
                let bytes = decoded(text);
                self.written.extend_from_slice(&bytes);
                json!({"count": bytes.len(), "eof": false})
            }
            "guest-exec" => json!({"pid": 77}),
            "guest-exec-status" => json!({"exited": true, "exitcode": 0}),
            _ => json!({}),
        };
        Some(format!("{}\n", json!({"return": value})).into_bytes())
    }
}

/// Base64, as qemu-ga reads it.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |letter: u8| LETTERS.iter().position(|&known| known == letter);
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for six in text.bytes().filter_map(value) {
        bits = bits << 6 | u32::try_from(six).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// Waits a moment. A guest that is only silent gives no sign of life.
fn pause(_doing: &str) -> Result<bool, LinuxError> {
    std::thread::sleep(Duration::from_millis(1));
    Ok(false)
}

fn error(desc: &str) -> Option<String> {
    Some(json!({"error": {"class": "GenericError", "desc": desc}}).to_string())
}

fn value(value: Value) -> Option<String> {
    Some(json!({"return": value}).to_string())
}

/// A lab's end, and a qemu-ga that follows the script.
fn played(script: Script) -> (Pusher, JoinHandle<Played>) {
    let (lab, guest) = UnixStream::pair().unwrap();
    let played = Played {
        script,
        written: Vec::new(),
        commands: Vec::new(),
    };
    (Pusher::new(lab, PATIENCE).unwrap(), played.serve(guest))
}

static AGENT: [u8; 100_000] = [0xa7; 100_000];

fn pushes(script: Script) -> (Result<Pushed, LinuxError>, Played) {
    let (mut pusher, guest) = played(script);
    let result = pusher.push(&AGENT, &mut pause);
    drop(pusher);
    (result, guest.join().unwrap())
}

/// The error's message and its remedy.
fn told(error: &LinuxError) -> String {
    format!("{error}; {}", error.help().unwrap())
}

#[test]
fn an_agent_is_written_whole_made_a_program_and_started() {
    // Short writes are sound.
    let short = [(
        "guest-file-write",
        vec![
            value(json!({"count": 1000, "eof": false})),
            value(json!({"count": 49152, "eof": false})),
            value(json!({"count": 49152, "eof": false})),
            value(json!({"count": 696, "eof": false})),
        ],
    )];
    let (pushed, _) = pushes(short.into());
    assert_eq!(pushed.unwrap().bytes, 100_000);

    let (pushed, guest) = pushes(Script::new());
    let pushed = pushed.unwrap();
    assert_eq!((pushed.version.as_str(), pushed.bytes), ("10.0.2", 100_000));
    assert_eq!(guest.written, AGENT);
    let names: Vec<_> = guest
        .commands
        .iter()
        .map(|one| one["execute"].as_str().unwrap())
        .collect();
    let once = |name| names.iter().filter(|&&one| one == name).count();
    assert_eq!(
        (once("guest-file-write"), once("guest-exec")),
        (3, 2),
        "{names:?}"
    );
    let programs: Vec<_> = guest
        .commands
        .iter()
        .filter(|one| one["execute"] == "guest-exec")
        .map(|one| {
            (
                one["arguments"]["path"].clone(),
                one["arguments"]["arg"].clone(),
            )
        })
        .collect();
    assert_eq!(programs[0], (json!("chmod"), json!(["755", PATH])));
    assert_eq!(programs[1], (json!(PATH), json!(["pushed"])));
}

#[rstest]
#[case::not_allowed(
    "guest-info",
    value(json!({"version": "7.2", "supported_commands": [
        {"name": "guest-file-open", "enabled": true, "success-response": true},
        {"name": "guest-file-write", "enabled": true, "success-response": true},
        {"name": "guest-file-flush", "enabled": true, "success-response": true},
        {"name": "guest-file-close", "enabled": true, "success-response": true},
        {"name": "guest-exec", "enabled": false, "success-response": true}]})),
    &["guest-exec failed", "7.2 does not offer it", "block-rpcs"]
)]
#[case::disabled(
    "guest-exec",
    Some(json!({"error": {"class": "CommandNotFound", "desc": "Command guest-exec has been disabled"}}).to_string()),
    &["guest-exec failed", "has been disabled (CommandNotFound)", "block-rpcs"]
)]
#[case::full(
    "guest-file-write",
    error("failed to write to file: No space left on device"),
    &["guest-file-write failed while writing /tmp/tdxlab-agent", "after 0 of 100000 bytes", "leave 98 KiB free"]
)]
#[case::full_at_last(
    "guest-file-flush",
    error("failed to flush file: No space left on device"),
    &["guest-file-flush failed", "after 100000 of 100000 bytes", "is full"]
)]
#[case::read_only(
    "guest-file-open",
    error("failed to open file '/tmp/tdxlab-agent' (mode: 'w'): Read-only file system"),
    &["guest-file-open failed", "Read-only", "can be written"]
)]
#[case::noexec(
    "guest-exec",
    error("Failed to execute child process (Permission denied)"),
    &["guest-exec failed", "noexec"]
)]
#[case::no_chmod(
    "guest-exec",
    error("Failed to execute child process (No such file or directory)"),
    &["guest-exec failed", "in its path"]
)]
#[case::chmod_fails(
    "guest-exec-status",
    value(json!({"exited": true, "exitcode": 1, "err-data": "Y2htb2Q6IG5vCg=="})),
    &["chmod ended with 1: chmod: no", "last"]
)]
#[case::chmod_is_killed(
    "guest-exec-status",
    value(json!({"exited": true, "signal": 11})),
    &["chmod was ended by signal 11"]
)]
#[case::chmod_ends_unclear(
    "guest-exec-status",
    value(json!({"exited": true})),
    &["does not tell"]
)]
#[case::no_base64(
    "guest-exec-status",
    value(json!({"exited": true, "exitcode": 1, "err-data": "?"})),
    &["guest-exec-status failed", "base64", "qemu-ga.jsonl"]
)]
#[case::more_than_asked(
    "guest-file-write",
    value(json!({"count": 100_000, "eof": false})),
    &["guest-file-write failed", "100000 of 49152 bytes written"]
)]
#[case::nothing_written(
    "guest-file-write",
    value(json!({"count": 0, "eof": false})),
    &["0 of 49152 bytes written"]
)]
#[case::less_than_nothing(
    "guest-file-write",
    value(json!({"count": -1, "eof": false})),
    &["-1 of 49152 bytes written"]
)]
#[case::another_shape("guest-file-open", value(json!("1000")), &["guest-file-open failed", "no answer"])]
#[case::no_json("guest-ping", Some("pong".to_owned()), &["guest-ping failed", "a line that is no answer"])]
#[case::too_long("guest-info", Some("x".repeat(300 << 10)), &["guest-info failed", "more than"])]
#[case::two_answers(
    "guest-ping",
    Some("{\"return\": {}}\n{\"return\": {}}".to_owned()),
    &["guest-ping failed", "an answer to nothing"]
)]
#[case::hangs("guest-file-write", None, &["no answer to guest-file-write", "while writing"])]
#[case::never("guest-sync-delimited", None, &["no answer to guest-sync-delimited", "waiting for qemu-ga"])]
#[case::runs_forever(
    "guest-exec-status",
    value(json!({"exited": false})),
    &["no answer to guest-exec-status", "making the agent a program"]
)]
fn what_goes_wrong_names_the_command_and_a_remedy(
    #[case] command: &'static str,
    #[case] answer: Option<String>,
    #[case] says: &[&str],
) {
    let began = Instant::now();
    let (result, _) = pushes([(command, vec![answer])].into());
    let told = told(&result.unwrap_err());
    for says in says {
        assert!(told.contains(says), "{says}: {told}");
    }
    assert!(began.elapsed() < 10 * PATIENCE, "{:?}", began.elapsed());
}

/// A disk that fills up in the middle: how much was written is said.
#[test]
fn a_disk_that_fills_up_says_how_much_was_written() {
    let answers = vec![
        value(json!({"count": 49152, "eof": false})),
        error("failed to write to file: No space left on device"),
    ];
    let (result, _) = pushes([("guest-file-write", answers)].into());
    let told = told(&result.unwrap_err());
    assert!(
        told.contains("No space left on device (GenericError), after 49152 of 100000 bytes"),
        "{told}"
    );
}

/// Watches until the agent's end is told.
fn watched(last: Option<String>) -> LinuxError {
    let answers = vec![
        value(json!({"exited": true, "exitcode": 0})),
        value(json!({"exited": false})),
        last,
    ];
    let (mut pusher, _guest) = played([("guest-exec-status", answers)].into());
    pusher.push(&AGENT, &mut pause).unwrap();
    let began = Instant::now();
    loop {
        if let Err(error) = pusher.watch("while filling buffer 0") {
            return error;
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_agent_that_ends_is_told_with_its_last_words() {
    let words = "bm8gcG9ydAo=";
    let told_of = |status| told(&watched(value(status)));
    let code = told_of(json!({"exited": true, "exitcode": 1, "err-data": words}));
    assert!(
        code.contains("while filling buffer 0: the agent ended with 1: no port"),
        "{code}"
    );
    let signal = told_of(json!({"exited": true, "signal": 9}));
    assert!(
        signal.contains("signal 9") && signal.contains("memory runs out"),
        "{signal}"
    );
    let lies = told(&watched(Some("{}".to_owned())));
    assert!(lies.contains("says nothing"), "{lies}");
}

#[test]
fn a_file_is_read_in_pieces_and_no_further_than_asked() {
    let piece =
        |count: usize, text: &str, eof| value(json!({"count": count, "buf-b64": text, "eof": eof}));
    let read = |answers, most| {
        let (mut pusher, guest) = played([("guest-file-read", answers)].into());
        pusher.push(&AGENT, &mut pause).unwrap();
        let result = pusher.read("/proc/meminfo", most, &mut pause);
        drop(pusher);
        guest.join().unwrap();
        result
    };
    let whole = read(vec![piece(3, "bm8g", false), piece(3, "bm8g", true)], 100);
    assert_eq!(whole.unwrap(), b"no no ");
    let cut = read(vec![piece(3, "bm8g", false)], 3);
    assert_eq!(cut.unwrap(), b"no ");
    for (answer, most, says) in [
        (piece(4, "bm8g", true), 100, "4 bytes that are 3"),
        (piece(3, "bm8g", true), 2, "3 bytes that are 3, of 2"),
        (piece(3, "bm8", true), 100, "base64"),
        (None, 100, "no answer to guest-file-read"),
    ] {
        let error = read(vec![answer], most).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn evidence_is_what_qemu_ga_still_gives() {
    let status = vec![
        value(json!({"exited": true, "exitcode": 0})),
        value(json!({"exited": true, "exitcode": 0, "out-data": "bm8g"})),
    ];
    let files = vec![
        value(json!({"count": 3, "buf-b64": "bm8g", "eof": true})),
        value(json!({"count": 0, "buf-b64": "", "eof": true})),
    ];
    let script = [("guest-exec-status", status), ("guest-file-read", files)];
    let (mut pusher, _guest) = played(script.into());
    pusher.push(&AGENT, &mut pause).unwrap();
    let found = pusher.evidence(&mut pause);
    let names: Vec<_> = found
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.len()))
        .collect();
    assert_eq!(
        names,
        [
            ("guest-meminfo.txt", 3),
            ("guest-iomem.txt", 0),
            ("guest-dmesg.log", 3)
        ]
    );

    // A qemu-ga that hangs by now gives none, and is not waited for again.
    let (mut pusher, _guest) = played([("guest-file-open", vec![value(json!(1)), None])].into());
    pusher.push(&AGENT, &mut pause).unwrap();
    assert!(pusher.evidence(&mut pause).is_empty());
    assert!(pusher.evidence(&mut pause).is_empty());
}

#[test]
fn a_system_that_does_not_switch_off_says_why() {
    let answers = vec![error("child process has failed to shutdown")];
    let (mut pusher, _guest) = played([("guest-shutdown", answers)].into());
    pusher.push(&AGENT, &mut pause).unwrap();
    pusher
        .shut_down("while it switched itself off", &mut pause)
        .unwrap();
    let why = loop {
        if let Some(why) = pusher.refused_shutdown("while it switched itself off") {
            break why;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(told(&why).contains("guest-shutdown failed"), "{why}");
    assert!(why.to_string().contains("failed to shutdown"), "{why}");
    assert!(pusher.refused_shutdown("twice").is_none());
}

#[test]
fn a_guest_that_dies_meanwhile_is_told_as_such() {
    let (mut pusher, _guest) = played([("guest-sync-delimited", vec![None])].into());
    let error = pusher.push(&AGENT, &mut |_: &str| Err(LinuxError::Interrupted));
    assert!(matches!(error, Err(LinuxError::Interrupted)));
}
