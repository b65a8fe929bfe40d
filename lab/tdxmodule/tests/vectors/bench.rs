//! The software module with a TD as in the vectors, and the actions of their steps.

use std::collections::BTreeMap;

use tdxlab_protocol::addr::{Gpa, PageLevel};
use tdxlab_protocol::tdcall::{leaf, reg};
use tdxlab_tdxmodule::{
    Entry, Exit, Faithful, Gprs, Level, ModuleVersion, Outcome, Pfn, Platform, Seamcall,
    SeamcallRegs, State, TdParams,
};

use crate::machine::Memory;
use crate::words::{Gap, level, number, optional};

/// Page of the TDR, which RDX names.
const TDR: u64 = 0x1000;

/// End of the module's own pages.
const CONTROL_END: Pfn = Pfn(0x40);

/// First of the pages that become tables where a row names none.
const TABLES: u64 = 0x100_0000;

/// PAMT pages of the ranges that hold TDR and tables.
const PAMT_PAGES: [(Pfn, [Pfn; 2]); 2] = [
    (Pfn(0), [Pfn(0x3002), Pfn(0x3003)]),
    (Pfn(TABLES >> 12), [Pfn(0x3000), Pfn(0x3001)]),
];

/// How the TD is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) vcpus: u16,
    sept_ve_disable: bool,
    wide: bool,
    dynamic_pamt: bool,
}

impl Options {
    pub(crate) fn parse(text: &str) -> Result<Options, Gap> {
        let mut options = Options {
            vcpus: 2,
            sept_ve_disable: false,
            wide: false,
            dynamic_pamt: false,
        };
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, "1"));
            let value: u16 = value.parse().map_err(|_| Gap(format!("option {word}")))?;
            match name {
                "vcpus" => options.vcpus = value,
                "vedis" => options.sept_ve_disable = value != 0,
                "gpaw5" => options.wide = value != 0,
                "dpamt" => options.dynamic_pamt = value != 0,
                _ => return Err(Gap(format!("option {word}"))),
            }
        }
        Ok(options)
    }
}

/// Result of a step: columns by name. A missing column is empty.
#[derive(Debug, Default)]
pub(crate) struct Did {
    columns: BTreeMap<&'static str, String>,
    /// Columns of registers that the call does not write.
    leftovers: &'static [&'static str],
}

impl Did {
    pub(crate) fn of(outcome: &str) -> Did {
        let mut did = Did::default();
        did.set("outcome", outcome);
        did
    }

    fn set(&mut self, column: &'static str, value: impl Into<String>) {
        self.columns.insert(column, value.into());
    }

    fn with(mut self, column: &'static str, value: impl Into<String>) -> Did {
        self.set(column, value);
        self
    }

    pub(crate) fn get(&self, column: &str) -> &str {
        self.columns.get(column).map_or("", String::as_str)
    }

    pub(crate) fn is_leftover(&self, column: &str) -> bool {
        self.leftovers.contains(&column)
    }
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

fn wide_hex(value: u64) -> String {
    format!("{value:#018x}")
}

/// The module, and its callers.
pub(crate) struct Bench {
    pub(crate) hardware: Platform<Memory>,
    pub(crate) options: Options,
    /// The page used for the next table without a given page.
    next_table: u64,
}

impl Bench {
    pub(crate) fn new(version: ModuleVersion, options: Options) -> Bench {
        let params = TdParams {
            vcpus: options.vcpus,
            sept_ve_disable: options.sept_ve_disable,
            wide: options.wide,
        };
        let policy = Box::new(Faithful);
        let mut hardware = Platform::new(Memory::default(), policy, version, params);
        if options.dynamic_pamt {
            hardware.enable_dynamic_pamt();
            for (range, pair) in PAMT_PAGES {
                hardware.place_pamt_pages(range, pair);
            }
        }
        hardware.place_control_pages(Pfn(TDR >> 12)..CONTROL_END);
        Bench {
            hardware,
            options,
            next_table: TABLES,
        }
    }

    /// Does one step, given in words.
    pub(crate) fn perform(&mut self, words: &[&str]) -> Result<Did, Gap> {
        let [op, given @ ..] = words else {
            return Err(Gap("a step without an operation".to_owned()));
        };
        if let Some(did) = self.environment(op, given)? {
            return Ok(did.with("state_before", "-").with("state_after", "-"));
        }
        let gpa = match op {
            &"track" | &"vpenter" | &"pamt_add" | &"pamt_remove" => None,
            _ => Some(number(given, 0)?),
        };
        let before = self.state(gpa);
        let did = match *op {
            "accept" => self.tdcall(leaf::MEM_PAGE_ACCEPT, given)?,
            "attr_rd" => self.tdcall(leaf::MEM_PAGE_ATTR_RD, given)?,
            "access" => self.access(given)?,
            "vpenter" => self.vpenter(),
            "fill" => self.fill(number(given, 0)?),
            "nz" => self.content(number(given, 0)?),
            _ => self.seamcall(op, given)?,
        };
        let after = self.state(gpa);
        Ok(did.with("state_before", before).with("state_after", after))
    }

    /// Level and state of the entry that governs an address, as `level:state`.
    fn state(&self, gpa: Option<u64>) -> String {
        let shared = if self.options.wide { 1 << 51 } else { 1 << 47 };
        match gpa {
            Some(gpa) if gpa < shared => {
                let (level, state, _) = self.hardware.entry_at(Gpa::new(gpa), Level::Pte);
                format!("{}:{}", level.tdx(), state.code())
            }
            _ => "-".to_owned(),
        }
    }

    fn table(&mut self, given: &[&str]) -> Result<u64, Gap> {
        if given.len() > 2 {
            return number(given, 2);
        }
        let table = self.next_table;
        self.next_table += 0x1000;
        Ok(table)
    }

    fn seamcall(&mut self, op: &str, given: &[&str]) -> Result<Did, Gap> {
        if op == "blockleaf" {
            let (gpa, of) = (Gpa::new(number(given, 0)?), level(given, 1)?);
            let (at, state, _) = self.hardware.entry_at(gpa, of);
            let table = matches!(state, State::NonLeaf | State::NonLeafBlocked);
            if at == of && table {
                return Ok(Did::of("skip"));
            }
        }
        let call = match op {
            "sept_add" => Seamcall::SeptAdd,
            "sept_remove" => Seamcall::SeptRemove,
            "sept_rd" => Seamcall::SeptRead,
            "add" => Seamcall::PageAdd,
            "aug" => Seamcall::PageAug,
            "block" | "blockleaf" => Seamcall::RangeBlock,
            "unblock" => Seamcall::RangeUnblock,
            "track" => Seamcall::Track,
            "demote" => Seamcall::PageDemote,
            "promote" => Seamcall::PagePromote,
            "remove" => Seamcall::PageRemove,
            "relocate" => Seamcall::PageRelocate,
            "pamt_add" => Seamcall::PamtAdd,
            "pamt_remove" => Seamcall::PamtRemove,
            _ => return Err(Gap(format!("operation {op}"))),
        };
        let mut regs = self.registers(call, given)?;
        let status = self.hardware.seamcall(call, &mut regs);
        let did = Did::of("complete").with("rax", wide_hex(status.0));
        Ok(match call {
            Seamcall::Track => did,
            Seamcall::PamtAdd => Did {
                leftovers: &["out_rcx", "out_rdx"],
                ..did
            },
            Seamcall::PamtRemove if status.is_success() => Did {
                leftovers: &["out_rcx"],
                ..did.with("out_rdx", hex(regs.rdx))
            },
            Seamcall::PamtRemove => Did {
                leftovers: &["out_rcx", "out_rdx"],
                ..did
            },
            _ => did
                .with("out_rcx", hex(regs.rcx))
                .with("out_rdx", hex(regs.rdx)),
        })
    }

    fn registers(&mut self, call: Seamcall, given: &[&str]) -> Result<SeamcallRegs, Gap> {
        let regs = SeamcallRegs {
            rdx: TDR,
            ..SeamcallRegs::default()
        };
        let at_level = |rcx: u64| -> Result<u64, Gap> { Ok(rcx | number(given, 1)?) };
        Ok(match call {
            Seamcall::Track => regs,
            Seamcall::PamtAdd => SeamcallRegs {
                rcx: number(given, 0)? | 1,
                rdx: number(given, 1)?,
                r8: number(given, 2)?,
                ..regs
            },
            Seamcall::PamtRemove => SeamcallRegs {
                rcx: number(given, 0)? | 1,
                ..regs
            },
            // It has no level; the frame is in its place.
            Seamcall::PageRelocate => SeamcallRegs {
                rcx: number(given, 0)?,
                r8: number(given, 1)?,
                ..regs
            },
            Seamcall::SeptAdd => SeamcallRegs {
                rcx: at_level(number(given, 0)?)?,
                r8: self.table(given)?,
                ..regs
            },
            Seamcall::PageDemote => SeamcallRegs {
                rcx: at_level(number(given, 0)?)?,
                r8: self.table(given)?,
                r12: optional(given, 3, 0)?,
                r13: optional(given, 4, 0)?,
                ..regs
            },
            Seamcall::PageAdd | Seamcall::PageAug => {
                let gpa = number(given, 0)?;
                SeamcallRegs {
                    rcx: at_level(gpa)?,
                    r8: if given.len() > 2 {
                        number(given, 2)?
                    } else {
                        gpa
                    },
                    ..regs
                }
            }
            _ => SeamcallRegs {
                rcx: at_level(number(given, 0)?)?,
                ..regs
            },
        })
    }

    fn tdcall(&mut self, leaf: u64, given: &[&str]) -> Result<Did, Gap> {
        let mut gprs: Gprs = [0; 16];
        gprs[reg::RAX] = leaf;
        gprs[reg::RCX] = number(given, 0)? | optional(given, 1, 0)?;
        let outcome = self.hardware.tdcall(0, &mut gprs);
        let did = self.outcome(outcome);
        let told = leaf == leaf::MEM_PAGE_ATTR_RD && matches!(outcome, Outcome::Complete(_));
        Ok(if told {
            did.with("out_rcx", hex(gprs[reg::RCX]))
                .with("out_rdx", hex(gprs[reg::RDX]))
        } else {
            did
        })
    }

    fn access(&mut self, given: &[&str]) -> Result<Did, Gap> {
        let gpa = Gpa::new(number(given, 0)?);
        let write = match given.get(1) {
            Some(&"r") => false,
            Some(&"w") => true,
            _ => return Err(Gap(format!("access {given:?}"))),
        };
        let had = self.hardware.ve_info(0).is_some();
        let outcome = self.hardware.access(0, gpa, write);
        let did = match outcome {
            Outcome::Complete(_) => return Ok(Did::of("access_ok")),
            outcome => self.outcome(outcome),
        };
        Ok(match (outcome, self.hardware.ve_info(0)) {
            (Outcome::Ve | Outcome::DoubleFault, Some(ve)) => did.with(
                "note",
                format!(
                    "ve: reason={} qual={:#x} gpa={:#x} had={}",
                    ve.reason,
                    ve.qualification,
                    ve.gpa,
                    if had { -1 } else { 0 }
                ),
            ),
            _ => did,
        })
    }

    fn outcome(&self, outcome: Outcome) -> Did {
        match outcome {
            Outcome::Complete(status) => Did::of("complete").with("rax", wide_hex(status.0)),
            Outcome::Restart => Did::of("tdcall_restart"),
            Outcome::Ve => Did::of("inject").with("vector", "20"),
            Outcome::DoubleFault => Did::of("inject").with("vector", "8"),
            Outcome::Exit(Exit::EptViolation {
                gpa,
                qualification,
                eeq,
                ..
            }) => Did::of("td_exit")
                .with("exit_reason", "48")
                .with("exit_gpa", hex(gpa.as_u64()))
                .with("exit_qual", hex(qualification))
                .with("eeq", wide_hex(eeq.0)),
            Outcome::Exit(Exit::Vmcall(_)) => Did::of("vmcall"),
        }
    }

    fn vpenter(&mut self) -> Did {
        let entry = self.hardware.filter_entry(0);
        let (possibly, noted) = self.hardware.stepping(0);
        let did = match entry {
            Entry::Allowed => Did::of("entry_allowed"),
            Entry::Refused(gpa) => {
                Did::of("entry_refused_fake_ept_violation").with("exit_gpa", hex(gpa.as_u64()))
            }
            Entry::Busy(_) => Did::of("entry_busy_sept_tree"),
        };
        did.with("note", format!("possibly={possibly} listidx={noted}"))
    }

    /// Frames of the 512 pages from an address.
    fn frames(&self, gpa: u64) -> Vec<Pfn> {
        let region = Gpa::new(gpa).align_down(PageLevel::Size2M);
        (0..512)
            .map(|index| {
                let page = Gpa::from_gfn(region.gfn() + index);
                let (level, _, frame) = self.hardware.entry_at(page, Level::Pte);
                let offset = if level == Level::Pte { 0 } else { index };
                frame.add(offset)
            })
            .collect()
    }

    fn fill(&mut self, gpa: u64) -> Did {
        let frames = self.frames(gpa);
        self.hardware.machine_mut().filled.extend(frames);
        Did::of("(env)")
    }

    fn content(&self, gpa: u64) -> Did {
        let filled = &self.hardware.machine().filled;
        let zeroed: Vec<usize> = self
            .frames(gpa)
            .iter()
            .enumerate()
            .filter(|(_, frame)| !filled.contains(frame))
            .map(|(index, _)| index)
            .collect();
        let place = |index: Option<&usize>| index.map_or(-1, |&index| index as i64);
        Did::of(&format!(
            "intact={} zeroed={} firstz={} lastz={}",
            512 - zeroed.len(),
            zeroed.len(),
            place(zeroed.first()),
            place(zeroed.last())
        ))
    }
}
