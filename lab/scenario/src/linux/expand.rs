//! Expands a scenario of a Linux guest into plans.

use std::collections::BTreeMap;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::linux::{AgentBy, BufferId, LinuxOp, LinuxPlan, LinuxStep, Load, Pages};
use tdxlab_plan::{Generation, Side, VERSION};

use super::machine::{MEMORY, guest};
use super::model::{
    LinuxConvert, LinuxFile, LinuxFill, LinuxLoad, LinuxLoadKeys, LinuxOperation, LinuxPart,
    LinuxPlug, LinuxRepeat, LinuxStep as Written, LinuxWalk, Plain,
};
use super::{file, walk};
use crate::error::Problem;
use crate::expand::{DEFAULT_SEED, fingerprint};
use crate::header;
use crate::read::{self, Reader};
use crate::scalar::{Bytes, Count, Scalar};
use crate::variant::{self, Variant};
use crate::yaml::Node;

const PAGE: u64 = PageLevel::Size4K.bytes();

/// What Linux adds at once: a memory block. Source: `memory_block_size_bytes()` in arch/x86/mm/init_64.c.
const PLUGGED_BY: u64 = 128 << 20;

/// Most steps of a plan. Each is a request to the agent.
const MAX_STEPS: usize = 2000;

/// Most values of drawn variables that are tried without having been drawn.
const MAX_TRIED: usize = 100;

/// All plans of a file, or all that is wrong with it.
pub(super) fn plans(
    file: &LinuxFile,
    root: &Node,
    text: &str,
    seed: Option<u64>,
) -> Result<Vec<LinuxPlan>, Vec<Problem>> {
    let mut reader = Reader::new(text);
    let variables = file.variables();
    header::check(&mut reader, &file.scenario, &file.about, root);
    variant::check_names(&mut reader, variables, root);
    let mut plans = Vec::new();
    let mut tried = 0;
    for variant in variant::variants(&mut reader, variables, root) {
        plans.extend(plan(&mut reader, file, root, &variant, seed));
        // What is not drawn has to be right, too.
        let picks = reader.picks.all();
        for pick in picks.into_iter().take(MAX_TRIED - tried) {
            reader.attempt(Some(pick));
            plan(&mut reader, file, root, &variant, seed);
            tried += 1;
        }
        reader.attempt(None);
        if reader.goes_on(root).is_none() {
            break;
        }
    }
    if reader.is_clean() {
        variant::check_used(&mut reader, variables, root);
    }
    match reader.is_clean() {
        true => Ok(plans),
        false => Err(reader.into_problems()),
    }
}

/// The plan of a variant, or `None` after reporting why not.
fn plan(
    reader: &mut Reader<'_>,
    file: &LinuxFile,
    root: &Node,
    variant: &Variant,
    seed: Option<u64>,
) -> Option<LinuxPlan> {
    reader.variant.clone_from(&variant.label);
    reader.vars.clear();
    for (name, value) in &variant.values {
        reader.vars.set(name, value.clone());
    }
    let name = variant.plan_name(&file.scenario);
    let written = reader.get_or(file.seed.as_ref(), root.key("seed"), DEFAULT_SEED);
    let seed = seed.or(written)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ fingerprint(&name));
    variant::draw(reader, file.variables().draw, root.key("draw"), &mut random);
    let td = reader.get_if(file.needs.td.as_ref(), root.key("needs").key("td"));
    let guest = guest(reader, file, root.key("guest").key("linux"));
    let mut steps = Steps {
        reader,
        random,
        td: td == Some(Some(true)),
        buffers: BTreeMap::new(),
        qemu_ga: guest
            .as_ref()
            .is_some_and(|guest| guest.agent == AgentBy::QemuGa),
        disk: guest.as_ref().is_some_and(|guest| guest.disk.is_some()),
        generation: 0,
        plugged: 0,
        steps: Vec::new(),
    };
    steps.list(&file.steps.0, root.key("steps"))?;
    Some(LinuxPlan {
        version: VERSION,
        name,
        about: file.about.trim().to_owned(),
        seed,
        td: td?,
        guest: guest?,
        steps: steps.steps,
    })
}

/// A buffer that a step has filled.
#[derive(Debug)]
struct Buffer {
    bytes: u64,
    pages: Pages,
    /// Which pages are shared.
    shared: Vec<bool>,
}

/// Expands the steps of one plan.
struct Steps<'r, 'a> {
    reader: &'r mut Reader<'a>,
    random: ChaCha8Rng,
    /// Whether the guest is always a TD.
    td: bool,
    buffers: BTreeMap<u8, Buffer>,
    /// Whether the agent comes by qemu-ga.
    qemu_ga: bool,
    /// Whether the system is one of a user's disk.
    disk: bool,
    generation: u16,
    /// Bytes that were plugged.
    plugged: u64,
    steps: Vec<LinuxStep>,
}

impl Steps<'_, '_> {
    fn wrong(&mut self, node: &Node, message: &str, label: &str, help: &str) {
        self.reader
            .wrong(node, message.to_owned(), label, help.to_owned());
    }

    /// Adds steps. `None` if there are too many to continue.
    fn list(&mut self, steps: &[Written], list: &Node) -> Option<()> {
        for (index, step) in steps.iter().enumerate() {
            let node = list.item(index);
            self.reader.goes_on(node)?;
            match step {
                Written::Word(word) => {
                    if let Some(word) = self.reader.get(word, node) {
                        let op = match word {
                            Plain::Boot => LinuxOp::Boot,
                            Plain::Settle => LinuxOp::Settle,
                            Plain::PowerOff => LinuxOp::PowerOff,
                            Plain::AllAccepted | Plain::Report | Plain::Quote => {
                                self.of_td(word, node)
                            }
                            Plain::Kexec => {
                                self.buffers.clear();
                                LinuxOp::Kexec
                            }
                        };
                        self.push(node, op)?;
                    }
                }
                Written::Full(operation) => self.operation(operation, node)?,
            }
        }
        Some(())
    }

    /// A step that only a TD can do.
    fn of_td(&mut self, word: Plain, node: &Node) -> LinuxOp {
        if !self.td {
            self.wrong(
                node,
                "a plain guest has neither TDREPORT nor quote, and accepts nothing",
                "of a TD",
                "add `needs: { td: true }`",
            );
        }
        let mut nonce = || self.random.next_u64();
        match word {
            Plain::AllAccepted => LinuxOp::AllAccepted,
            Plain::Report => LinuxOp::Report { nonce: nonce() },
            _ => LinuxOp::Quote { nonce: nonce() },
        }
    }

    fn push(&mut self, node: &Node, op: LinuxOp) -> Option<()> {
        let last = self.steps.last().map(|step| &step.op);
        match (&op, last) {
            (LinuxOp::Boot, Some(_)) => {
                self.wrong(
                    node,
                    "it is booted already",
                    "again",
                    "`boot` is the first step",
                );
            }
            (LinuxOp::Boot, None) => {}
            (_, None) => {
                self.wrong(
                    node,
                    "nothing is booted yet",
                    "too early",
                    "`boot` is the first step",
                );
            }
            (_, Some(LinuxOp::Plug { ends: true, .. })) => {
                self.wrong(
                    node,
                    "the guest has ended",
                    "too late",
                    "a `plug` that `ends` the guest is the last step",
                );
            }
            (_, Some(LinuxOp::PowerOff)) => {
                self.wrong(
                    node,
                    "the guest is off",
                    "too late",
                    "`power_off` is the last step",
                );
            }
            _ => {}
        }
        match &op {
            LinuxOp::Kexec if self.qemu_ga => self.wrong(
                node,
                "an agent that qemu-ga has started cannot start another kernel",
                "not with `agent: qemu-ga`",
                "leave `kexec` out, or take the lab's own image",
            ),
            LinuxOp::Fill {
                pages: Pages::Kernel,
                ..
            } if self.disk => self.wrong(
                node,
                "pages of the kernel come from a module that a disk of one's own lacks",
                "not with `disk`",
                "take `4K` or `thp` pages, which cannot be converted",
            ),
            _ => {}
        }
        let line = node.line;
        self.steps.push(LinuxStep { line, op });
        if self.steps.len() > MAX_STEPS {
            self.wrong(
                node,
                &format!("a plan of a Linux guest cannot have more than {MAX_STEPS} steps"),
                "one too many",
                "repeat less often, or split the scenario",
            );
            return None;
        }
        Some(())
    }

    fn operation(&mut self, operation: &LinuxOperation, node: &Node) -> Option<()> {
        if let Some(repeat) = &operation.repeat {
            return self.repeat(repeat, node.key("repeat"));
        }
        if let Some(walk) = &operation.walk {
            return self.walk(walk, node, node.key("walk"));
        }
        let op = if let Some(fill) = &operation.fill {
            self.fill(fill, node.key("fill"))
        } else if let Some(buffer) = &operation.verify {
            let id = self.filled(buffer, node.key("verify"));
            id.map(|buffer| LinuxOp::Verify { buffer })
        } else if let Some(buffer) = &operation.free {
            let id = self.filled(buffer, node.key("free"));
            id.map(|buffer| {
                self.buffers.remove(&buffer.get());
                LinuxOp::Free { buffer }
            })
        } else if let Some(part) = &operation.punch {
            let part = self.part(part, node.key("punch"));
            part.map(|(buffer, first, count)| LinuxOp::Punch {
                buffer,
                first,
                count,
            })
        } else if let Some(plug) = &operation.plug {
            self.plug(plug, node.key("plug"))
        } else if let Some(read) = &operation.read_file {
            let read = file::read_file(self.reader, read, self.qemu_ga, node.key("read_file"));
            read.map(LinuxOp::ReadFile)
        } else if let Some(convert) = &operation.convert {
            self.convert(convert, node.key("convert"))
        } else {
            let load = operation.load.as_ref()?;
            self.load(load, node.key("load")).map(LinuxOp::Load)
        };
        // An error is reported; the next step may have others.
        op.map_or(Some(()), |op| self.push(node, op))
    }

    fn repeat(&mut self, repeat: &LinuxRepeat, node: &Node) -> Option<()> {
        let times = self.reader.get(&repeat.times, node.key("times"))?;
        if !(1..=MAX_STEPS as u64).contains(&times) {
            let message = format!("steps cannot be done {times} times");
            let help = format!("from 1 to {MAX_STEPS}");
            self.wrong(node.key("times"), &message, "out of bounds", &help);
            return None;
        }
        let names = variant::begin_scope(self.reader, repeat.counter.iter(), node)?;
        for round in 0..times {
            if let Some(name) = &repeat.counter {
                self.reader.vars.set(name, round.to_string());
            }
            let before = self.steps.len();
            self.list(&repeat.steps.0, node.key("steps"))?;
            if self.steps.len() == before {
                break;
            }
        }
        variant::end_scope(self.reader, &names);
        Some(())
    }

    fn buffer(&mut self, number: &Scalar<Count>, node: &Node) -> Option<BufferId> {
        let number = self.reader.get(number, node)?;
        let id = u8::try_from(number).ok().and_then(BufferId::new);
        if id.is_none() {
            let message = format!("there is no buffer {number}");
            self.wrong(node, &message, "out of bounds", "they go from 0 to 15");
        }
        id
    }

    /// A buffer that an earlier step has filled.
    fn filled(&mut self, number: &Scalar<Count>, node: &Node) -> Option<BufferId> {
        let id = self.buffer(number, node)?;
        if !self.buffers.contains_key(&id.get()) {
            let message = format!("buffer {} is not filled here", id.get());
            let help = "fill it first; a kexec takes all of them";
            self.wrong(node, &message, "not filled", help);
            return None;
        }
        Some(id)
    }

    /// A number of bytes in whole pages.
    fn bytes(&mut self, bytes: &Scalar<Bytes>, node: &Node) -> Option<u64> {
        let bytes = self.reader.get(bytes, node)?;
        if !bytes.is_multiple_of(PAGE) {
            let message = format!("{bytes} bytes are no whole pages");
            self.wrong(node, &message, "not whole pages", "such as 12K or 32M");
            return None;
        }
        Some(bytes)
    }

    fn fill(&mut self, fill: &LinuxFill, node: &Node) -> Option<LinuxOp> {
        let buffer = self.buffer(&fill.buffer, node.key("buffer"))?;
        let pages = self
            .reader
            .get_or(fill.pages.as_ref(), node.key("pages"), Pages::Small)?;
        let bytes = self.bytes(&fill.size, node.key("size"))?;
        let fits = match pages {
            Pages::Small | Pages::Transparent => bytes != 0,
            Pages::Hugetlb2M => bytes != 0 && bytes.is_multiple_of(PageLevel::Size2M.bytes()),
            Pages::Kernel => bytes.is_power_of_two() && bytes <= 4 << 20,
        };
        if !fits {
            self.wrong(
                node.key("size"),
                "no buffer of these pages has this size",
                "does not fit",
                "hugetlb: multiples of 2M; kernel: a power of two up to 4M",
            );
            return None;
        }
        let known = self.buffers.get(&buffer.get());
        if known.is_some_and(|known| (known.bytes, known.pages) != (bytes, pages)) {
            let message = "this buffer has another size or other pages";
            self.wrong(node.key("buffer"), message, "in use", "free it first");
            return None;
        }
        let count = if pages == Pages::Kernel {
            bytes / PAGE
        } else {
            0
        };
        self.buffers.entry(buffer.get()).or_insert(Buffer {
            bytes,
            pages,
            shared: vec![false; count as usize],
        });
        self.generation += 1;
        let generation = Generation::new(self.generation)?;
        Some(LinuxOp::Fill {
            buffer,
            bytes,
            pages,
            generation,
        })
    }

    /// Some pages of a buffer: `at` and `size`.
    fn part(&mut self, part: &LinuxPart, node: &Node) -> Option<(BufferId, u32, u32)> {
        let buffer = self.filled(&part.buffer, node.key("buffer"))?;
        let at = match &part.at {
            Some(at) => self.bytes(at, node.key("at"))?,
            None => 0,
        };
        let size = self.bytes(&part.size, node.key("size"))?;
        let bytes = self.buffers[&buffer.get()].bytes;
        if size == 0 || at.checked_add(size).is_none_or(|end| end > bytes) {
            self.wrong(
                node.key("size"),
                "this is not inside the buffer",
                "outside",
                "`at` and `size` are of the buffer's own bytes",
            );
            return None;
        }
        let page = |bytes: u64| u32::try_from(bytes / PAGE).ok();
        Some((buffer, page(at)?, page(size)?))
    }

    /// A buffer of the kernel's own pages.
    fn of_kernel(&mut self, buffer: BufferId, node: &Node) -> Option<&mut Buffer> {
        if self.buffers[&buffer.get()].pages != Pages::Kernel {
            self.wrong(
                node,
                "Linux converts its own pages only",
                "of other pages",
                "fill the buffer with `pages: kernel`",
            );
            return None;
        }
        self.buffers.get_mut(&buffer.get())
    }

    fn plug(&mut self, plug: &LinuxPlug, node: &Node) -> Option<LinuxOp> {
        let bytes = self.reader.get(&plug.size, node.key("size"));
        let ends = self
            .reader
            .get_or(plug.ends.as_ref(), node.key("ends"), false);
        let (bytes, ends) = bytes.zip(ends)?;
        self.plugged = self.plugged.saturating_add(bytes);
        if bytes == 0 || !bytes.is_multiple_of(PLUGGED_BY) || self.plugged >> 20 > *MEMORY.end() {
            self.wrong(
                node.key("size"),
                "memory is plugged by whole 128M, up to 16G in all",
                "out of bounds",
                "such as 256M",
            );
        }
        if ends && !self.td {
            self.wrong(
                node.key("ends"),
                "a plain guest lives with memory that is plugged",
                "of a TD",
                "add `needs: { td: true }`",
            );
        }
        Some(LinuxOp::Plug { bytes, ends })
    }

    fn convert(&mut self, convert: &LinuxConvert, node: &Node) -> Option<LinuxOp> {
        let part = LinuxPart {
            buffer: convert.buffer.clone(),
            at: convert.at.clone(),
            size: convert.size.clone(),
        };
        let (buffer, first, count) = self.part(&part, node)?;
        let to = self.reader.get(&convert.to, node.key("to"))?;
        let shared = to == Side::Shared;
        let known = &mut self.of_kernel(buffer, node.key("buffer"))?.shared;
        let pages = &mut known[first as usize..(first + count) as usize];
        let there = pages.contains(&shared);
        pages.fill(shared);
        if there {
            let message = format!("some of these pages are {} already", side(to));
            let help = "Linux refuses to accept memory twice; convert what is on the other side";
            self.wrong(node.key("to"), &message, "there already", help);
        }
        Some(LinuxOp::Convert {
            buffer,
            first,
            count,
            to,
        })
    }

    fn walk(&mut self, walk: &LinuxWalk, step: &Node, node: &Node) -> Option<()> {
        let buffer = self.filled(&walk.buffer, node.key("buffer"));
        let times = self.reader.get(&walk.times, node.key("times"));
        let Some((buffer, times)) = buffer.zip(times) else {
            return Some(());
        };
        for _ in 0..times {
            // Drawn with a generator of its own, so that the buffer can be borrowed.
            let mut random = self.random.clone();
            let Some(known) = self.of_kernel(buffer, node.key("buffer")) else {
                return Some(());
            };
            let (first, count, to) = walk::draw(&mut random, &mut known.shared);
            self.random = random;
            let op = LinuxOp::Convert {
                buffer,
                first,
                count,
                to,
            };
            self.push(step, op)?;
        }
        Some(())
    }

    fn load(&mut self, load: &LinuxLoad, node: &Node) -> Option<Load> {
        let keys = match load {
            LinuxLoad::Release(word) => {
                return self.reader.get(word, node).map(|_| Load::Release);
            }
            LinuxLoad::Full(keys) => keys,
        };
        let LinuxLoadKeys {
            touch,
            fork,
            fragment,
            processes,
        } = keys;
        let count = self
            .reader
            .get_or(processes.as_ref(), node.key("processes"), 1)?;
        let processes = u16::try_from(count).ok().filter(|count| *count > 0);
        let Some(processes) = processes else {
            let message = format!("a load cannot have {count} processes");
            let help = "such as 4";
            self.wrong(node.key("processes"), &message, "out of bounds", help);
            return None;
        };
        match (touch, fork, fragment) {
            (Some(bytes), None, None) => {
                let bytes = self.bytes(bytes, node.key("touch"))?;
                Some(Load::Touch { bytes, processes })
            }
            (None, Some(bytes), None) => {
                let bytes = self.bytes(bytes, node.key("fork"))?;
                Some(Load::Fork { bytes, processes })
            }
            (None, None, Some(bytes)) if keys.processes.is_none() => {
                let bytes = self.bytes(bytes, node.key("fragment"))?;
                Some(Load::Fragment { bytes })
            }
            _ => {
                let message = "a load is one of `touch`, `fork` and `fragment`".to_owned();
                let help = "`processes` goes with `touch` and `fork`".to_owned();
                self.reader
                    .push(read::at(&node.span, message, "not one load", help));
                None
            }
        }
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Private => "private",
        Side::Shared => "shared",
    }
}
