//! A guest's kernel log, of which the agent gives whole copies: what is new in each.

use tdxlab_journal::Reading;
use tdxlab_kernel::kmsg::Record;

/// Longest part of a line that is quoted.
const SHOWN: usize = 80;

/// What was read of the log.
#[derive(Debug, Default)]
pub(crate) struct CopiedLog {
    /// The sequence number that follows what was read.
    next: u64,
}

impl CopiedLog {
    /// Kernel messages of this copy that no earlier one had. Incomplete, with those that are left, where
    /// sequence numbers are left out between the copies or in this one: a WARN may have been among them.
    pub(crate) fn since(&mut self, copy: &[u8]) -> Reading<Vec<String>> {
        let text = String::from_utf8_lossy(copy);
        let mut lines = Vec::new();
        let mut trouble = None;
        let mut last = None;
        // Lines that start with a blank are properties of the record before.
        for line in text.lines().filter(|line| !line.is_empty()) {
            if line.starts_with(' ') {
                continue;
            }
            let Some(record) = Record::parse(line) else {
                let shown: String = line.chars().take(SHOWN).collect();
                trouble.get_or_insert_with(|| format!("a line that is no record: {shown:?}"));
                continue;
            };
            last = Some(record.sequence);
            if record.sequence < self.next {
                continue;
            }
            if record.sequence > self.next {
                trouble.get_or_insert_with(|| {
                    let lost = record.sequence - self.next;
                    format!("{lost} records were overwritten before they were read")
                });
            }
            self.next = record.sequence.saturating_add(1);
            if record.facility == 0 {
                lines.push(record.text);
            }
        }
        let known = self.next.checked_sub(1);
        if last < known {
            trouble.get_or_insert_with(|| "it ends before what was read of it earlier".to_owned());
        }
        let lost = trouble.map(|reason| format!("the kernel log: {reason}"));
        Reading::unless(lost, lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Reading<Vec<String>> {
        Reading::Read(lines.iter().map(|&line| line.to_owned()).collect())
    }

    #[test]
    fn a_copy_gives_what_earlier_ones_had_not_by_sequence_number() {
        let mut log = CopiedLog::default();
        let first =
            "6,0,0,-;Linux version\n4,1,0,-;early\n SUBSYSTEM=x\n12,2,9,-;WARNING: a daemon's\n";
        assert_eq!(
            log.since(first.as_bytes()),
            read(&["Linux version", "early"])
        );
        assert_eq!(log.since(first.as_bytes()), read(&[]));
        // The clock may stand still between two records.
        let second = format!("{first}4,3,9,-;WARNING: at the same time\n");
        assert_eq!(
            log.since(second.as_bytes()),
            read(&["WARNING: at the same time"])
        );
    }

    #[rstest::rstest]
    #[case::from_the_start("4,2,0,-;late\n", 0, "2 records were overwritten", &["late"])]
    #[case::between_copies("4,5,0,-;late\n", 3, "2 records were overwritten", &["late"])]
    #[case::inside("4,3,0,-;a\n4,9,0,-;b\n", 3, "5 records were overwritten", &["a", "b"])]
    #[case::of_user_space_too("12,4,0,-;a daemon\n4,5,0,-;b\n", 3, "1 records were", &["b"])]
    #[case::nonsense("4,3,0,-;a\nnonsense\n", 3, "no record", &["a"])]
    #[case::empty("", 3, "ends before", &[])]
    fn a_copy_with_a_gap_is_incomplete_and_what_is_left_counts(
        #[case] copy: &str,
        #[case] next: u64,
        #[case] says: &str,
        #[case] left: &[&str],
    ) {
        let mut log = CopiedLog { next };
        let reading = log.since(copy.as_bytes());
        let Reading::Incomplete { reason, rest } = &reading else {
            panic!("{reading:?}");
        };
        assert!(reason.contains(says), "{reason}");
        assert_eq!(rest.as_deref().unwrap(), left);
    }

    #[test]
    fn no_number_is_beyond_reading() {
        let most = u64::MAX.to_string();
        for copy in [
            format!("{most},{most},{most},-;x"),
            format!("4,{most}0,0,-;x"),
            ";,,,".to_owned(),
        ] {
            let mut log = CopiedLog { next: u64::MAX };
            let _ = log.since(copy.as_bytes());
            let _ = CopiedLog::default().since(copy.as_bytes());
        }
    }
}
