//! The predictor against Intel's TDX module: every recorded ACCEPT of the module that a host
//! without races can cause.
//!
//! The rows are the software module's too (`lab/tdxmodule/vectors/README.md`); here they are read
//! independently, and compared with the prediction for a guest with memory in that state. An answer
//! of the module in RAX must be the predictor's, without an exit; where it is a TD exit, the
//! predictor must expect one, and a split where the exit is one for a larger pending leaf.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::{Action, Design, Guest, LOW_BASE, Op, Size, Slot, VcpuId};
use tdxlab_predict::Predictor;

type Row = BTreeMap<String, String>;

const MEMORY: u64 = 1 << 30;
const LEAF: u64 = PageLevel::Size2M.bytes();
const PAGE: u64 = PageLevel::Size4K.bytes();

/// An ACCEPT and the state of its page before.
struct Accept {
    gpa: Gpa,
    size: PageLevel,
    state: String,
}

/// The module's answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Status(u64),
    /// A TD exit, with this many splits of pending 2M leaves.
    Exit {
        splits: i64,
    },
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn range(start: Gpa, bytes: u64) -> GpaRange {
    let end = start.checked_add(bytes).expect("within 1 GiB");
    GpaRange::new(start, end).expect("it ends after it starts")
}

fn accept(start: Gpa, size: PageLevel) -> Op {
    let size_word = match size {
        PageLevel::Size4K => Size::Size4K,
        PageLevel::Size2M => Size::Size2M,
        PageLevel::Size1G => Size::Size1G,
    };
    Op::Accept {
        range: range(start, size.bytes()),
        size: size_word,
        vcpu: VcpuId(0),
    }
}

impl Accept {
    /// `None` for other rows, and for what no scenario says: bad operands, addresses outside memory.
    fn of(row: &Row) -> Option<Accept> {
        let gpa = Gpa::new(number(&row["gpa"])?);
        let size = PageLevel::from_tdx(number(&row["level"])?.try_into().ok()?)?;
        let end = LOW_BASE.as_u64() + MEMORY;
        let inside = gpa >= LOW_BASE && gpa.as_u64() < end && size.bytes() <= end - gpa.as_u64();
        (inside && gpa.is_aligned(size)).then(|| Accept {
            gpa,
            size,
            state: row["state_before"].clone(),
        })
    }

    /// What brings the page into the state that the row begins with; `None` where only a host in the
    /// middle of a change has it so.
    fn preparation(&self) -> Option<Vec<Op>> {
        let region = self.gpa.align_down(PageLevel::Size2M);
        let page = self.gpa.align_down(PageLevel::Size4K);
        let second = Gpa::new(region.as_u64() + PAGE);
        let neighbour = if page == second {
            Gpa::new(region.as_u64() + 2 * PAGE)
        } else {
            second
        };
        let neighbour = accept(neighbour, PageLevel::Size4K);
        let prefault = |start, bytes| Op::Prefault {
            range: range(start, bytes),
        };
        Some(match self.state.as_str() {
            "3:0" | "2:0" | "1:0" => vec![],
            "0:0" => vec![neighbour],
            "0:2" => vec![neighbour, prefault(page, PAGE)],
            "0:4" => vec![accept(page, PageLevel::Size4K)],
            "1:2" => vec![prefault(region, LEAF)],
            "1:4" => vec![accept(region, PageLevel::Size2M)],
            _ => return None,
        })
    }

    /// The predictor's answer.
    fn predicted(&self, design: &Design, preparation: &[Op]) -> Answer {
        let memory = range(LOW_BASE, MEMORY);
        let guest = Guest {
            memory,
            vcpus: 1,
            sept_ve_disable: false,
            slots: vec![Slot {
                range: memory,
                gmem_offset: 0,
            }],
            image: vec![],
            backing: None,
        };
        let mut predictor = Predictor::new(design, &guest);
        for op in preparation {
            let step = Action::One(op.clone());
            predictor.step(&step).expect("it can be judged");
        }
        let step = Action::One(accept(self.gpa, self.size));
        let expected = predictor.step(&step).expect("it can be judged");
        let exits = expected.accept_exits.single().expect("no race");
        let statuses = expected.statuses.expect("no race");
        match (exits, statuses.as_slice()) {
            (0, [run]) => Answer::Status(run.status),
            (1, [_]) => Answer::Exit {
                splits: expected.splits.single().expect("no race"),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// The module's answer; `None` where a lock, an interrupt or a state of the TD decided.
fn answer(row: &Row) -> Option<Answer> {
    let disturbed = ["lock ", "set ", "intr "];
    if disturbed.iter().any(|word| row["setup"].contains(word)) {
        return None;
    }
    match row["outcome"].as_str() {
        "complete" => Some(Answer::Status(number(&row["rax"])?)),
        "td_exit" => {
            let eeq = number(&row["eeq"])?;
            let (wanted, found, state) = ((eeq >> 32) & 7, (eeq >> 35) & 7, (eeq >> 38) & 0xff);
            Some(Answer::Exit {
                splits: i64::from(found > wanted && state == 2),
            })
        }
        _ => None,
    }
}

#[test]
fn vectors_of_accept() {
    let path = std::env::var_os("TDXLAB_VECTORS").map_or_else(
        || {
            let own = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../tdxmodule/vectors/tdx-module.csv"
            );
            PathBuf::from(own)
        },
        PathBuf::from,
    );
    let design = Design::named("headtail").expect("a design with huge pages");
    let mut reader = csv::Reader::from_path(&path).expect("the file of rows");
    let (mut rows, mut equal, mut unsaid) = (0, 0, 0);
    let mut differing = Vec::new();
    for row in reader.deserialize::<Row>() {
        let row = row.expect("a row");
        if row["op"] != "accept" {
            continue;
        }
        rows += 1;
        let said = Accept::of(&row)
            .and_then(|accept| Some((accept.preparation()?, accept, answer(&row)?)));
        let Some((preparation, accept, intel)) = said else {
            unsaid += 1;
            continue;
        };
        let ours = accept.predicted(design, &preparation);
        if ours == intel {
            equal += 1;
        } else {
            differing.push(format!("{row:?}\n    Intel {intel:?}, ours {ours:?}"));
        }
    }
    writeln!(
        std::io::stdout(),
        "predictor: {rows} rows of ACCEPT, {equal} equal, {} differ, {unsaid} not expressible",
        differing.len()
    )
    .expect("standard output");
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(rows == 0 || equal > 0, "no row was compared");
}
