//! Files that steps read out of the guest: what must hold of one, how much of it a report shows, and where
//! it is kept.

use std::fs;
use std::path::Path;

use tdxlab_journal::folder::write_whole;
use tdxlab_journal::verdict::{Finding, Witness};
use tdxlab_linux::answer::words;
use tdxlab_linux::{LinuxError, LinuxGuest};
use tdxlab_plan::linux::{FileBy, ReadFile};
use tdxlab_protocol::linux::{Ask, Outcome};

use crate::court::Court;

/// Most lines of a file in a report, and most characters of one.
const SHOWN: (usize, usize) = (8, 160);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// Its bytes, and whether it has more than were asked for.
    Bytes(Vec<u8>, bool),
    /// Why the guest could not read it.
    Refused(String),
}

/// Reads the file.
pub(crate) fn perform(guest: &mut LinuxGuest, wanted: &ReadFile) -> Result<File, LinuxError> {
    match wanted.by {
        FileBy::Agent => by_agent(guest, wanted),
        FileBy::QemuGa => by_qemu_ga(guest, wanted),
    }
}

fn by_agent(guest: &mut LinuxGuest, wanted: &ReadFile) -> Result<File, LinuxError> {
    let lies = |what: String| LinuxError::Lies {
        doing: format!("while reading {}", wanted.path),
        what,
    };
    let Ok(path) = wanted.path.as_str().try_into() else {
        return Err(lies("the path is too long to be asked for".to_owned()));
    };
    let most = wanted.most;
    let answer = guest.ask(Ask::ReadFile { path, most })?;
    match answer.outcome {
        Ok(Outcome::Read { cut, .. }) => Ok(File::Bytes(answer.bytes, cut)),
        Ok(other) => Err(lies(format!("{other:?} in place of a file"))),
        Err(failure) => Ok(File::Refused(words(&failure))),
    }
}

fn by_qemu_ga(guest: &mut LinuxGuest, wanted: &ReadFile) -> Result<File, LinuxError> {
    let most = wanted.most as usize;
    match guest.read_file(&wanted.path, most + 1) {
        Ok(Some(mut bytes)) => {
            let more = bytes.len() > most;
            bytes.truncate(most);
            Ok(File::Bytes(bytes, more))
        }
        Ok(None) => Err(LinuxError::Lies {
            doing: format!("while reading {}", wanted.path),
            what: "there is no qemu-ga to read it".to_owned(),
        }),
        Err(LinuxError::QemuGa {
            command,
            said,
            tried: true,
            ..
        }) => Ok(File::Refused(format!("{command}: {said}"))),
        Err(error) => Err(error),
    }
}

/// What must hold, each line with the way it is judged.
pub(crate) fn text(wanted: &ReadFile) -> Vec<String> {
    let mut lines = vec![format!("exactly: a file of at most {}", size(wanted.most))];
    let contains = wanted.contains.iter();
    lines.extend(contains.map(|text| format!("exactly: {text:?} stands in it")));
    lines
}

/// Judges what was read.
pub(crate) fn judge(court: &mut Court, wanted: &ReadFile, file: &File) {
    court.hear(Witness::Agent);
    let mut wrong = |expected: String, found: String| {
        court.find(Finding::wrong(Witness::Agent, expected, found))
    };
    let bound = size(wanted.most);
    match file {
        File::Refused(why) => wrong(format!("{} of at most {bound}", wanted.path), why.clone()),
        File::Bytes(_, true) => wrong(
            format!("{} of at most {bound}", wanted.path),
            "more; raise `most`, up to 1M".to_owned(),
        ),
        File::Bytes(bytes, false) => {
            let stands = |text: &String| {
                let mut places = bytes.windows(text.len().max(1));
                places.any(|place| place == text.as_bytes())
            };
            if let Some(text) = wanted.contains.as_ref().filter(|text| !stands(text)) {
                let found = format!("nowhere in its {} bytes", bytes.len());
                wrong(format!("{text:?} in {}", wanted.path), found);
            }
        }
    }
    if let File::Bytes(bytes, _) = file {
        show(court, &wanted.path, bytes);
    }
}

/// The start of the file, in lines that cannot be mistaken for others.
fn show(court: &mut Court, path: &str, bytes: &[u8]) {
    court.show(format!("{} bytes of {path}", bytes.len()));
    let Some(text) = str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
    else {
        return court.show("which are no text".to_owned());
    };
    let lines = text.lines();
    for line in lines.clone().take(SHOWN.0) {
        let mut shown: String = line.chars().take(SHOWN.1).collect();
        if shown.len() < line.len() {
            shown += "...";
        }
        court.show(format!("| {}", shown.replace(char::is_control, " ")));
    }
    match lines.skip(SHOWN.0).count() {
        0 => {}
        more => court.show(format!("| ... and {more} more lines")),
    }
}

/// Writes what was read to `folder`, the scenario's. Returns where it is, in words.
pub(crate) fn keep(folder: &Path, step: usize, path: &str, bytes: &[u8]) -> String {
    let name = name(step, path);
    let kept = fs::create_dir_all(folder)
        .map_err(|error| error.to_string())
        .and_then(|()| write_whole(&folder.join(&name), bytes).map_err(|error| error.to_string()));
    match kept {
        Ok(()) => format!("kept as {name} in the scenario's folder"),
        Err(why) => format!("not kept: {why}"),
    }
}

/// Name of a file of the guest's among those of the scenario.
fn name(step: usize, path: &str) -> String {
    let last = path.rsplit('/').find(|part| !part.is_empty());
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
        _ => '_',
    };
    let last: String = last.unwrap_or("file").chars().map(plain).take(64).collect();
    format!("step-{}-{last}", step + 1)
}

fn size(bytes: u32) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_journal::verdict::Verdict;

    use super::*;

    fn wanted(contains: Option<&str>) -> ReadFile {
        ReadFile {
            path: "/etc/os-release".to_owned(),
            most: 4096,
            contains: contains.map(str::to_owned),
            by: FileBy::Agent,
        }
    }

    fn judged(contains: Option<&str>, file: &File) -> (Verdict, String) {
        let mut court = Court::default();
        judge(&mut court, &wanted(contains), file);
        let (judgement, seen) = court.finish();
        let said = judgement.findings.iter().map(ToString::to_string);
        let all: Vec<String> = said.chain(seen).collect();
        (judgement.verdict, all.join("\n"))
    }

    #[test]
    fn a_file_is_whole_and_holds_what_must_stand_in_it() {
        let file = File::Bytes(b"NAME=x\nID=debian\n".to_vec(), false);
        let (verdict, said) = judged(Some("ID=debian"), &file);
        assert_eq!(verdict, Verdict::Pass);
        assert!(
            said.contains("17 bytes of /etc/os-release") && said.contains("| ID=debian"),
            "{said}"
        );
        assert_eq!(judged(None, &file).0, Verdict::Pass);
        let empty = File::Bytes(Vec::new(), false);
        assert_eq!(judged(None, &empty).0, Verdict::Pass);
        for (contains, file, says) in [
            (
                Some("ID=fedora"),
                &file,
                "\"ID=fedora\" in /etc/os-release, found nowhere in its 17 bytes",
            ),
            (Some("x"), &empty, "nowhere in its 0 bytes"),
            (
                None,
                &File::Bytes(vec![b'x'; 4096], true),
                "of at most 4 KiB, found more; raise `most`",
            ),
            (
                None,
                &File::Refused("it is a directory".to_owned()),
                "4 KiB, found it is a directory",
            ),
        ] {
            let (verdict, said) = judged(contains, file);
            assert_eq!(verdict, Verdict::Fail, "{said}");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_a_guest_writes_is_shown_within_bounds() {
        let long = format!("{}\n\x1b[31mred\n", "y".repeat(1000)) + &"z\n".repeat(20);
        let (_, said) = judged(None, &File::Bytes(long.into_bytes(), false));
        assert!(
            said.contains("yyy...") && said.contains("|  [31mred"),
            "{said}"
        );
        assert!(said.ends_with("| ... and 14 more lines"), "{said}");
        let (_, said) = judged(None, &File::Bytes(vec![0, 255], false));
        assert!(said.ends_with("which are no text"), "{said}");
    }

    #[test]
    fn a_file_is_kept_by_a_name_that_stays_in_its_folder() {
        assert_eq!(name(1, "/etc/os-release"), "step-2-os-release");
        assert_eq!(name(0, "/a/../.."), "step-1-..");
        assert_eq!(name(0, "/"), "step-1-file");
        assert_eq!(name(0, "/tmp/a b\n"), "step-1-a_b_");
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("scenarios/0000-x");
        let said = keep(&inside, 3, "/etc/issue", b"Debian");
        assert_eq!(said, "kept as step-4-issue in the scenario's folder");
        assert_eq!(fs::read(inside.join("step-4-issue")).unwrap(), b"Debian");
        let said = keep(&inside.join("step-4-issue"), 3, "/etc/issue", b"");
        assert!(said.starts_with("not kept: "), "{said}");
    }
}
