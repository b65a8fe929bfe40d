//! A thread plays the monitor, with messages of real ones and with invalid ones.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use super::commands::{QueryCpus, QueryStatus, QueryVmStats};
use super::*;

const LONG: Duration = Duration::from_secs(30);
const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}"#;

/// A monitor that greets, then answers each command with the next of `answers`, in which `ID` is
/// replaced by the id of the command; then hangs up.
fn monitor(answers: &'static [&'static str]) -> Qmp {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut out = theirs.try_clone().unwrap();
        writeln!(out, "{GREETING}").unwrap();
        let mut commands = BufReader::new(theirs).lines();
        for answer in answers {
            let Some(Ok(command)) = commands.next() else {
                return;
            };
            let command: Any = serde_json::from_str(&command).unwrap();
            writeln!(out, "{}", answer.replace("ID", &command["id"].to_string())).unwrap();
        }
    });
    Qmp::new(ours).unwrap()
}

const CAPABLE: &str = r#"{"return":{},"id":ID}"#;

#[test]
fn answers_are_matched_with_events_in_between() {
    let mut qmp = monitor(&[
        CAPABLE,
        concat!(
            r#"{"timestamp":{"seconds":3,"microseconds":5},"event":"NEVER_HEARD_OF","data":{"a":1}}"#,
            "\n",
            r#"{"return":{"running":true,"singlestep":false,"status":"running"},"id":ID}"#
        ),
    ]);
    let status = qmp.execute(&QueryStatus {}, LONG).unwrap();
    assert!(status.running);
    let events: Vec<_> = qmp.take_events().collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].name, "NEVER_HEARD_OF");
    assert_eq!(events[0].data["a"], 1);
    assert_eq!(events[0].at, Duration::new(3, 5000));
}

#[test]
fn a_tdx_panic_is_an_event_like_any_other() {
    let mut qmp = monitor(&[
        CAPABLE,
        concat!(
            r#"{"timestamp":{"seconds":-1,"microseconds":-1},"event":"GUEST_PANICKED","data":{"action":"pause","info":{"type":"tdx","error-code":65536,"message":"bad","gpa":4096}}}"#,
            "\n",
            r#"{"return":{"running":false,"status":"guest-panicked"},"id":ID}"#
        ),
    ]);
    assert_eq!(
        qmp.execute(&QueryStatus {}, LONG).unwrap().status,
        "guest-panicked"
    );
    let event = qmp.take_events().next().unwrap();
    assert_eq!(event.data["info"]["type"], "tdx");
}

#[test]
fn statistics_of_a_vm_can_be_asked_for() {
    let request = serde_json::to_value(Execute::with_id(
        QueryVmStats::of_kvm(&["pages_4k", "pages_2m"]),
        7,
    ))
    .unwrap();
    assert_eq!(
        request,
        serde_json::json!({
            "execute": "query-stats",
            "arguments": {
                "target": "vm",
                "providers": [{"provider": "kvm", "names": ["pages_4k", "pages_2m"]}],
            },
            "id": 7,
        })
    );
    let mut qmp = monitor(&[
        CAPABLE,
        r#"{"return":[{"provider":"kvm","stats":[{"name":"pages_4k","value":31}]}],"id":ID}"#,
    ]);
    let stats = qmp
        .execute(&QueryVmStats::of_kvm(&["pages_4k"]), LONG)
        .unwrap();
    assert_eq!(stats[0].stats[0].value, 31);
}

#[test]
fn a_refusal_says_why() {
    let mut qmp = monitor(&[
        CAPABLE,
        r#"{"error":{"class":"SomethingNew","desc":"not under TCG"},"id":ID}"#,
    ]);
    let error = qmp.execute(&QueryCpus {}, LONG).unwrap_err();
    assert_eq!(
        error.to_string(),
        "query-cpus-fast was refused: not under TCG (SomethingNew)"
    );
}

#[test]
fn nonsense_is_an_error_and_no_hang() {
    for (said, why) in [
        ("hello there\n", "a line that is no QMP message"),
        ("[1, 2]\n", "a line that is no QMP message"),
        ("{}\n", "something else in place of the greeting"),
        (
            "{\"return\":{}}\n",
            "something else in place of the greeting",
        ),
        ("\u{0}\u{1}\u{2}\n", "a line that is no QMP message"),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said.as_bytes()).unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        let error = qmp.execute(&QueryStatus {}, LONG).unwrap_err().to_string();
        assert!(error.starts_with(why), "{said:?}: {error}");
    }
}

#[test]
fn an_answer_of_another_shape_is_nonsense() {
    let mut qmp = monitor(&[CAPABLE, r#"{"return":[1],"id":ID}"#]);
    let error = qmp.execute(&QueryStatus {}, LONG).unwrap_err();
    assert!(matches!(error, QmpError::Nonsense { .. }), "{error}");
}

#[test]
fn a_line_without_end_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let writer = thread::spawn(move || {
        let chunk = vec![b'x'; 1 << 20];
        while theirs.write_all(&chunk).is_ok() {}
    });
    let mut qmp = Qmp::new(ours).unwrap();
    let error = qmp.execute(&QueryStatus {}, LONG).unwrap_err();
    assert!(matches!(error, QmpError::TooLong), "{error}");
    drop(qmp);
    writer.join().unwrap();
}

#[test]
fn silence_ends_with_patience() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut qmp = Qmp::new(ours).unwrap();
    let error = qmp
        .execute(&QueryStatus {}, Duration::from_millis(20))
        .unwrap_err();
    assert!(matches!(error, QmpError::Silent { .. }), "{error}");
}

#[test]
fn patience_ends_for_a_monitor_that_talks_of_other_things_without_end() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let writer = thread::spawn(move || {
        writeln!(theirs, "{GREETING}").unwrap();
        let events = "{\"event\":\"X\"}\n".repeat(1 << 12);
        while theirs.write_all(events.as_bytes()).is_ok() {}
    });
    let mut qmp = Qmp::new(ours).unwrap();
    let error = qmp
        .execute(&QueryStatus {}, Duration::from_millis(20))
        .unwrap_err();
    assert!(matches!(error, QmpError::Silent { .. }), "{error}");
    assert!(qmp.take_events().count() <= MAX_EVENTS);
    drop(qmp);
    writer.join().unwrap();
}

#[test]
fn a_closed_socket_is_noticed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut qmp = Qmp::new(ours).unwrap();
    drop(theirs);
    let error = qmp.execute(&QueryStatus {}, LONG).unwrap_err();
    assert!(
        matches!(error, QmpError::Closed | QmpError::Io(_)),
        "{error}"
    );
}

#[test]
fn the_trace_has_both_sides_in_order() {
    let mut qmp = monitor(&[
        CAPABLE,
        r#"{"return":{"running":true,"status":"running"},"id":ID}"#,
    ]);
    qmp.execute(&QueryStatus {}, LONG).unwrap();
    let trace = qmp.trace();
    let lines: Vec<Any> = trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let position = |what: &str| {
        lines
            .iter()
            .position(|line| line["message"].to_string().contains(what))
            .unwrap()
    };
    assert!(position("query-status") < position("\"running\""));
    assert_eq!(lines[position("query-status")]["direction"], "sent");
    assert_eq!(lines[position("\"QMP\"")]["direction"], "received");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_hang(bytes in proptest::collection::vec(0u8.., 0..512)) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&bytes).unwrap();
        drop(theirs);
        let Ok(mut qmp) = Qmp::new(ours) else { return Ok(()) };
        while qmp.receive().is_ok() {}
    }
}
