//! Repeats calls with recorded answers of Intel's TDX module on the software module: rows of a
//! table against `/sys/kernel/debug/softtdx/vectors` (see `kernel/vectors.c`).
//!
//! A row is one call: its preparation (`setup`), the call, and all its results. Rows of a case
//! without `setup` run in sequence in one TD.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// The module that is played, where versions differ.
const VERSION: &str = "1.5.25";

/// vCPUs of a TD whose row does not say.
const VCPUS: &str = "2";

/// A TD of the played module: takes a line, gives the result.
pub trait Module {
    /// Performs one call.
    ///
    /// # Errors
    ///
    /// The module does not take it.
    fn perform(&mut self, line: &str) -> io::Result<String>;
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: usize,
    columns: BTreeMap<String, String>,
}

impl Row {
    fn get(&self, column: &str) -> &str {
        self.columns.get(column).map_or("", String::as_str)
    }

    fn group(&self) -> &str {
        self.get("case").split('/').next().unwrap_or("")
    }
}

/// The table's rows.
///
/// # Errors
///
/// A line with more or fewer columns than the first.
pub fn rows(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines().enumerate();
    let head: Vec<&str> = match lines.next() {
        Some((_, head)) => head.split(',').collect(),
        None => return Err("the table is empty".to_owned()),
    };
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| {
            // The last column is a note in words, which may hold commas.
            let cells: Vec<&str> = line.splitn(head.len(), ',').collect();
            if cells.len() != head.len() {
                return Err(format!("line {}: {} columns", number + 1, cells.len()));
            }
            let columns = head.iter().zip(cells);
            Ok(Row {
                line: number + 1,
                columns: columns
                    .map(|(name, cell)| ((*name).to_owned(), cell.to_owned()))
                    .collect(),
            })
        })
        .collect()
}

/// Result of all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Number of rows that agree.
    pub agree: usize,
    /// Rows that were skipped, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Rows that differ, in words.
    pub differ: Vec<String>,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows agree, {} differ", self.agree, self.differ.len())?;
        for (why, rows) in &self.left_out {
            writeln!(f, "{rows} rows left out: {why}")?;
        }
        for difference in &self.differ {
            writeln!(f, "{difference}")?;
        }
        Ok(())
    }
}

/// Asks `module` all rows.
///
/// # Errors
///
/// It does not take a line that it is to take.
pub fn compare(rows: &[Row], module: &mut dyn Module) -> io::Result<Compared> {
    let mut compared = Compared::default();
    let mut broken_case = None;
    let mut case = None;
    for row in rows {
        let this_case = (row.get("case"), row.get("options"));
        let same_case = case == Some(this_case) && row.get("setup").is_empty();
        case = Some(this_case);
        if same_case && broken_case == Some(this_case) {
            *compared
                .left_out
                .entry("follows a row that was left out".to_owned())
                .or_default() += 1;
            continue;
        }
        if let Some(why) = not_played(row) {
            broken_case = Some(this_case);
            *compared.left_out.entry(why).or_default() += 1;
            continue;
        }
        if !same_case {
            module.perform(&format!("new {} {}", vcpus(row), ve_disabled(row)))?;
        }
        for step in row.get("setup").split(';').filter(|step| !step.is_empty()) {
            module.perform(step)?;
        }
        let said = module.perform(&call(row))?;
        let said = said.trim();
        match difference(row, said) {
            None => compared.agree += 1,
            Some(wanted) => compared.differ.push(format!(
                "line {}, {}: {} gives {said}, and should {wanted}",
                row.line,
                row.get("case"),
                call(row)
            )),
        }
    }
    Ok(compared)
}

fn option<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    let options = row.get("options").split_whitespace();
    options
        .filter_map(|option| option.split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

fn vcpus(row: &Row) -> &str {
    option(row, "vcpus").unwrap_or(VCPUS)
}

fn ve_disabled(row: &Row) -> &str {
    option(row, "vedis").unwrap_or("0")
}

/// Why a row is skipped: what the module does not implement.
fn not_played(row: &Row) -> Option<String> {
    const GROUPS: [(&str, &str); 6] = [
        ("C", "content of frames, which are numbers here"),
        ("D", "dynamic PAMT"),
        ("H", "PAMT: which frames are in use"),
        (
            "X",
            "UNBLOCK, PROMOTE, SEPT.REMOVE, SEPT.RD and RELOCATE, which KVM does not call",
        ),
        ("Z", "the zero-step filter"),
        ("L2", "L2 VMs"),
    ];
    if row.get("module") != "both" && row.get("module") != VERSION {
        return Some("of another version of the module".to_owned());
    }
    let group = GROUPS.iter().find(|(group, _)| *group == row.group());
    if let Some((_, why)) = group {
        return Some((*why).to_owned());
    }
    // The module tracks pages removed while a TD is exported: state REMOVED.
    let exported = ["opstate 8", "opstate 9"]
        .iter()
        .any(|state| row.get("setup").contains(state));
    if exported && row.get("op") == "remove" {
        return Some("REMOVE of a TD that is migrated".to_owned());
    }
    if option(row, "gpaw5").is_some() {
        return Some("GPA width 52".to_owned());
    }
    let calls = || {
        let setup = row.get("setup").split(';');
        setup.chain([row.get("op")])
    };
    const PLAYED: [&str; 17] = [
        "sept_add",
        "aug",
        "add",
        "block",
        "blockleaf",
        "remove",
        "demote",
        "accept",
        "attr_rd",
        "access",
        "track",
        "finalize",
        "kick",
        "leave",
        "enter",
        "intr",
        "set",
    ];
    for step in calls().filter(|step| !step.is_empty()) {
        let mut words = step.split_whitespace();
        let op = words.next().unwrap_or("");
        if op == "lock" {
            let what = words.next().unwrap_or("");
            if what.starts_with("hpa") || what == "tree_hp" {
                return Some(format!("lock {what}: PAMT, or the tree's host priority"));
            }
        } else if !PLAYED.contains(&op) {
            return Some(format!("{op}, which KVM does not call"));
        }
    }
    let is_frame_operand = matches!(row.get("op"), "sept_add" | "demote" | "aug");
    if is_frame_operand && !row.get("args").is_empty() {
        return Some("PAMT: which frames are in use".to_owned());
    }
    None
}

/// The row's own call as a line.
fn call(row: &Row) -> String {
    let words = ["op", "gpa", "level", "args"].map(|column| row.get(column));
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Compares numbers, ignoring leading zeros.
fn equal(wanted: &str, said: &str) -> bool {
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    wanted.is_empty()
        || wanted == said
        || (number(wanted).is_some() && number(wanted) == number(said))
}

/// The expected answer, if it differs.
fn difference(row: &Row, said: &str) -> Option<String> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let outcome = row.get("outcome");
    let columns: &[&str] = match outcome {
        "complete" => &["rax", "out_rcx", "out_rdx"],
        "td_exit" => &["exit_gpa", "exit_qual", "eeq"],
        "inject" => &["vector"],
        _ => &[],
    };
    let mut wanted: Vec<&str> = vec![outcome];
    wanted.extend(columns.iter().map(|column| row.get(column)));
    if outcome != "(env)" {
        wanted.push(row.get("state_after"));
    }
    let agrees = words.len() == wanted.len()
        && wanted
            .iter()
            .zip(&words)
            .enumerate()
            .all(|(at, (wanted, said))| {
                // A state of "-" is that of a call without a place.
                let is_state = at + 1 == words.len() && at > 0;
                (is_state && *wanted == "-") || equal(wanted, said)
            });
    (!agrees).then(|| wanted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "case,step,options,module,setup,op,gpa,level,args,state_before,outcome,rax,\
                        exit_reason,exit_gpa,exit_qual,eeq,vector,state_after,out_rcx,out_rdx,note\n";

    /// Gives scripted answers, and records the requests.
    struct Recorded(Vec<String>, &'static str);

    impl Module for Recorded {
        fn perform(&mut self, line: &str) -> io::Result<String> {
            self.0.push(line.to_owned());
            Ok(self.1.to_owned())
        }
    }

    #[test]
    fn a_row_becomes_lines_and_a_verdict() {
        let text = format!(
            "{HEAD}M/a/1,1,vcpus=1 vedis=1,both,sept_add 0x0 3;finalize,aug,0x40000000,1,,2:0,complete,\
             0xc0000b0000000001,,,,,,2:0,0x8000000000000000,0x2,\n"
        );
        let rows = rows(&text).unwrap();
        let mut module = Recorded(
            Vec::new(),
            "complete 0xc0000b0000000001 0x8000000000000000 0x2 2:0\n",
        );
        let compared = compare(&rows, &mut module).unwrap();
        assert_eq!((compared.agree, compared.differ.len()), (1, 0));
        assert_eq!(
            module.0,
            ["new 1 1", "sept_add 0x0 3", "finalize", "aug 0x40000000 1"]
        );
        let mut module = Recorded(Vec::new(), "complete 0x0 0x0 0x0 1:2\n");
        let compared = compare(&rows, &mut module).unwrap();
        assert!(compared.differ[0].contains("line 2"), "{compared}");
    }

    #[test]
    fn what_is_not_played_is_left_out_by_name_and_so_is_what_follows() {
        let text = format!(
            "{HEAD}Q/a,0,,both,,promote,0x0,1,,-,complete,,,,,,,-,,,\n\
             Q/a,1,,both,,track,,,,-,complete,0x0,,,,,,-,,,\n\
             Q/b,0,,1.5.01,,track,,,,-,complete,0x0,,,,,,-,,,\n"
        );
        let mut module = Recorded(Vec::new(), "");
        let compared = compare(&rows(&text).unwrap(), &mut module).unwrap();
        assert_eq!(compared.left_out.values().sum::<usize>(), 3);
        assert!(module.0.is_empty());
    }

    #[test]
    fn a_broken_table_is_told_by_its_line() {
        assert!(rows("").is_err());
        assert_eq!(rows("a,b\n1,2\n3\n").unwrap_err(), "line 3: 1 columns");
    }
}
