//! Messages of the kernel out of a log as `dmesg`, `journalctl -k`, syslog or `/dev/kmsg` print it.
//!
//! A recording made by the doctor has bare messages. One put together by hand has whatever its
//! author's tool wrote: time stamps, host names, levels, colours, lines wrapped by a terminal or a
//! mail program.

use super::tdx::messages::is_known_message;
use crate::kmsg::Record;

/// Names of months and days, the only words in a time stamp.
const CALENDAR: [&str; 19] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Mon",
    "Tue", "Wed", "Thu", "Fri", "Sat", "Sun",
];

/// Facilities and levels of `dmesg --decode`.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug",
];

/// The kernel's messages in a printed log, in its order, each without what the tool put before it.
pub(super) fn messages(log: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    let mut all_have_prefixes = None;
    for line in log.lines() {
        let line = without_colours(line);
        let Some(text) = message(&line) else { continue };
        let has_prefix = text.len() < line.trim().len();
        // Where the first line has a prefix, one without continues the line before.
        if *all_have_prefixes.get_or_insert(has_prefix)
            && !has_prefix
            && !begins_a_message(text)
            && let Some(last) = messages.last_mut()
        {
            *last = joined(last, &line);
        } else {
            messages.push(text.to_owned());
        }
    }
    // The kernel log and the journal, one after the other, or a console that is logged twice.
    messages.dedup();
    messages
}

/// The kernel's message in a line; `None` of an empty one, a property of a record, or what a user
/// program says.
fn message(line: &str) -> Option<&str> {
    let line = line.trim_end();
    if is_property(line) {
        return None;
    }
    if let Some(record) = Record::parse(line) {
        // Escapes are of no concern here: no message about TDX has one.
        let text = line.split_once(';').map_or(line, |(_, text)| text);
        return (record.facility == 0).then_some(text);
    }
    // As a mail quotes it.
    let mut rest = line.trim_start_matches(['>', ' ', '\t']);
    let mut stamped = false;
    loop {
        let before = rest;
        if let Some((facility, after)) = decoded_level(rest) {
            if facility != "kern" {
                return None;
            }
            rest = after;
        }
        rest = without_level(rest);
        if let Some(after) = without_stamp(rest) {
            stamped = true;
            rest = after;
        }
        rest = rest.trim_start();
        if rest == before {
            break;
        }
    }
    match syslog_program(rest, stamped) {
        // A console's own stamp may follow.
        Some(("kernel", after)) => message(after),
        Some(_) => None,
        None => (!rest.is_empty()).then_some(rest),
    }
}

/// Whether a line without a prefix is no continuation: a subsystem's name comes first.
fn begins_a_message(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.ends_with(':') || text.starts_with("kvm [") || is_known_message(text)
}

/// ` SUBSYSTEM=pci`, which follows a record of `/dev/kmsg`.
fn is_property(line: &str) -> bool {
    let key = line.strip_prefix(' ').and_then(|rest| rest.split_once('='));
    key.is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|c| c.is_ascii_uppercase()))
}

/// `HOST kernel: text` or `HOST program[12]: text` after a stamp; `kernel: text` anywhere.
fn syslog_program(line: &str, stamped: bool) -> Option<(&str, &str)> {
    let (head, text) = line.split_once(": ")?;
    let program = |word: &'static str| (word, text);
    let mut words = head.split_whitespace();
    match (words.next()?, words.next(), words.next()) {
        ("kernel", None, _) => Some(program("kernel")),
        (_, Some("kernel"), None) => Some(program("kernel")),
        (_, Some(name), None) if stamped && name.ends_with(']') && name.find('[') > Some(0) => {
            Some(program("another"))
        }
        _ => None,
    }
}

/// `kern  :warn  : text`.
fn decoded_level(line: &str) -> Option<(&str, &str)> {
    let (facility, rest) = line.split_once(':')?;
    let (level, text) = rest.split_once(':')?;
    let facility = facility.trim();
    (FACILITIES.contains(&facility) && LEVELS.contains(&level.trim())).then_some((facility, text))
}

/// `<4>text`.
fn without_level(line: &str) -> &str {
    let level = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match level {
        Some((digits, text)) if is_number(digits) => text,
        _ => line,
    }
}

/// A stamp in brackets, or one that a line begins with.
fn without_stamp(line: &str) -> Option<&str> {
    if let Some((stamp, text)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let words = || stamp.split_whitespace();
        let is_stamp = words().next().is_some() && words().all(is_of_stamp);
        return (is_stamp && stamp.contains(|c: char| c.is_ascii_digit())).then_some(text);
    }
    // `2026-11-20T10:00:00,123456+00:00 text`, or `Nov 20 10:00:00 text`.
    let (first, after) = line.split_once(' ')?;
    if first.len() >= 19 && first.as_bytes()[10] == b'T' && is_of_stamp(&first.replace('T', "-")) {
        return Some(after);
    }
    if !CALENDAR.contains(&first) {
        return None;
    }
    let (day, after) = after.trim_start().split_once(' ')?;
    let (time, text) = after.trim_start().split_once(' ')?;
    let is_time = time.contains(':') && is_of_stamp(time);
    (is_number(day) && is_time).then_some(text)
}

/// A number, time, date, difference of times, caller (`T12`, `C3`), or the name of a day or month.
fn is_of_stamp(word: &str) -> bool {
    let word = word.trim_matches(['<', '>']);
    let caller = word.strip_prefix(['T', 'C']).is_some_and(is_number);
    let name = word.get(..3).is_some_and(|name| CALENDAR.contains(&name));
    let rest = if name { &word[3..] } else { word };
    let number = |c: char| c.is_ascii_digit() || ".:,+-Z".contains(c);
    caller || rest.chars().all(number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// Two pieces of one message, wrapped in a word by a terminal or between words by a mail program.
fn joined(start: &str, rest: &str) -> String {
    let rest = rest.trim();
    let with_blank = format!("{} {rest}", start.trim_end());
    let without = format!("{start}{rest}");
    match is_known_message(&without) && !is_known_message(&with_blank) {
        true => without,
        false => with_blank,
    }
}

/// The line without ECMA-48 colours: ESC, `[`, parameters, and the letter that ends them.
fn without_colours(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        kept.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic());
        rest = end.map_or("", |at| &after[at + 1..]);
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const KEYS: &str = "virt/tdx: BIOS enabled: private KeyID range [32, 64)";

    #[rstest]
    #[case::bare("virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::dmesg("[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::with_caller(
        "[    3.014159][    T1] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::with_caller_apart(
        "[    3.014159] [  C12] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::console("<6>[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::raw("6,512,3014159,-;virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::raw_with_caller(
        "6,512,3014159,-,caller=T1;virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::date("[Fri Nov 20 09:30:01 2026] virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::human("[Nov20 09:30] virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::human_later("[  +0.000014] virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::difference(
        "[    3.014159 <    0.000014>] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::iso(
        "2026-11-20T09:30:01,123456+00:00 virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::decoded(
        "kern  :info  : [    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::decoded_iso(
        "kern  :info  : 2026-11-20T09:30:01,123456+01:00 virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::journal(
        "Nov 20 09:30:01 lab-7 kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::journal_one_digit(
        "Nov  2 09:30:01 lab-7.example kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::journal_precise(
        "Nov 20 09:30:01.123456 lab-7 kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::journal_iso(
        "2026-11-20T09:30:01+0100 lab-7 kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::journal_monotonic(
        "[    3.014159] lab-7 kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::syslog(
        "2026-11-20T09:30:01.123456+00:00 lab-7 kernel: [    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::no_host("kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)")]
    #[case::coloured(
        "\u{1b}[32m[    3.014159] \u{1b}[0m\u{1b}[33mvirt/tdx: \u{1b}[0mBIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::windows("[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)\r\n")]
    #[case::twice(
        "[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)\n[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::wrapped_between_words(
        "[    3.014159] virt/tdx: BIOS enabled: private\nKeyID range [32, 64)"
    )]
    #[case::wrapped_in_a_word(
        "[    3.014159] virt/tdx: BIOS enabled: private Key\nID range [32, 64)"
    )]
    #[case::one_without(
        "[    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)\nvirt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::program_beside_it(
        "Nov 20 09:30:00 lab-7 systemd[1]: loaded tdx: module not loaded\nNov 20 09:30:01 lab-7 kernel: virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    #[case::user_record(
        "14,511,3014100,-;tdx: module not loaded\n6,512,3014159,-;virt/tdx: BIOS enabled: private KeyID range [32, 64)\n SUBSYSTEM=x"
    )]
    #[case::user_facility(
        "user  :info  : [    3.014100] tdx: module not loaded\nkern  :info  : [    3.014159] virt/tdx: BIOS enabled: private KeyID range [32, 64)"
    )]
    fn tools_print_one_message_in_many_ways(#[case] log: &str) {
        assert_eq!(messages(log), [KEYS]);
    }

    #[rstest]
    #[case("[Firmware Bug]: TSC doesn't count")]
    #[case("[Hardware Error]: 12")]
    #[case("kvm [812]: TD vp_enter_ret 0x6000000500000000")]
    #[case("kvm_intel: EPT is required for TDX")]
    #[case("virt/tdx: TDMR [0x0, 0x40000000): reserved areas exhausted.")]
    #[case("kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1")]
    #[case("May be a message")]
    fn what_is_no_prefix_stays(#[case] line: &str) {
        assert_eq!(messages(line), [line]);
        assert_eq!(messages(&format!("[ 1.0] {line}")), [line]);
    }

    proptest! {
        #[test]
        fn any_log_is_read(log in "(\\PC|\u{1b}\\[|\n|\\[|<|;){0,200}") {
            messages(&log);
        }
    }
}
