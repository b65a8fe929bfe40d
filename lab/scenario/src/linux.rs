//! Scenarios of a Linux guest: `guest: { linux: ... }`, with operations of their own.

use std::collections::BTreeMap;
use std::path::Path;

use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::linux::{BufferId, LinuxGuest, LinuxOp, LinuxPlan, LinuxStep, Load, Pages};
use tdxlab_plan::{Generation, Side, VERSION};

use super::error::{Problem, ScenarioError};
use super::scalar::{Bytes, Kind};
use super::vars::{Vars, nearest};
use super::yaml::{self, Content, Node};

const PAGE: u64 = PageLevel::Size4K.bytes();

/// Memory of a guest, in MiB: less does not boot, more is no guest for a test.
const MEMORY: std::ops::RangeInclusive<u64> = 256..=(16 << 10);

const STEPS: [&str; 10] = [
    "boot",
    "fill",
    "verify",
    "free",
    "punch",
    "convert",
    "load",
    "kexec",
    "settle",
    "power_off",
];

/// Whether the file is a scenario of a Linux guest.
pub(super) fn is_linux(root: &Node) -> bool {
    root.key("guest").entry("linux").is_some()
}

/// Reads the plan in a scenario of a Linux guest.
///
/// # Errors
///
/// Everything that is wrong with it, underlined.
pub fn parse_linux(path: &Path, text: &str) -> Result<LinuxPlan, ScenarioError> {
    let mut reader = Reader {
        problems: Vec::new(),
        buffers: BTreeMap::new(),
        generation: 0,
        vars: Vars::default(),
    };
    let plan = match yaml::tree(text, &mut reader.problems) {
        Ok(root) => reader.plan(&root),
        Err(problem) => {
            reader.problems.push(problem);
            None
        }
    };
    match plan {
        Some(plan) if reader.problems.is_empty() => Ok(plan),
        _ => Err(ScenarioError::wrong(path, text, reader.problems)),
    }
}

struct Reader {
    problems: Vec<Problem>,
    /// Size and pages of each buffer so far.
    buffers: BTreeMap<u8, (u64, Pages)>,
    generation: u16,
    vars: Vars,
}

impl Reader {
    fn wrong(&mut self, node: &Node, message: &str, help: &str) {
        self.problems
            .push(Problem::new(node.span.clone(), message, "here").help(help));
    }

    /// Refuses keys that are none of `known`.
    fn only(&mut self, node: &Node, known: &[&str]) {
        for entry in node.entries() {
            if !known.contains(&entry.key.as_str()) {
                let help = match nearest(&entry.key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it may have {}", known.join(", ")),
                };
                let message = format!("unknown key `{}`", entry.key);
                self.problems
                    .push(Problem::new(entry.key_span.clone(), message, "unknown").help(help));
            }
        }
    }

    /// The text of a key.
    fn text<'n>(&mut self, node: &'n Node, key: &str) -> Option<&'n str> {
        let text = node.entry(key).and_then(|entry| entry.value.text());
        if text.is_none() {
            self.wrong(node, &format!("`{key}` is missing"), "give it a value");
        }
        text
    }

    fn bytes(&mut self, node: &Node, key: &str) -> Option<u64> {
        let text = self.text(node, key)?;
        match Bytes::read(text, &self.vars) {
            Ok(bytes) if bytes.is_multiple_of(PAGE) => Some(bytes),
            _ => {
                self.wrong(
                    node.key(key),
                    &format!("`{text}` is no size of whole pages"),
                    "such as 12K or 32M",
                );
                None
            }
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, node: &Node, key: &str, text: &str) -> Option<T> {
        let number = text
            .parse::<u64>()
            .ok()
            .and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.wrong(
                node.key(key),
                &format!("`{text}` is no number for `{key}`"),
                "a small whole number",
            );
        }
        number
    }

    fn count<T: TryFrom<u64>>(&mut self, node: &Node, key: &str) -> Option<T> {
        let text = self.text(node, key)?;
        self.number(node, key, text)
    }

    /// The number of a buffer, which is at `key` or is the value itself.
    fn buffer(&mut self, node: &Node, key: &str) -> Option<BufferId> {
        let number: u8 = match node.text() {
            Some(text) => self.number(node, key, text)?,
            None => self.count(node, key)?,
        };
        let buffer = BufferId::new(number);
        if buffer.is_none() {
            self.wrong(
                node,
                &format!("there is no buffer {number}"),
                "they go from 0 to 15",
            );
        }
        buffer
    }

    /// A buffer that an earlier step has filled.
    fn filled(&mut self, node: &Node) -> Option<(BufferId, u64, Pages)> {
        let buffer = self.buffer(node, "buffer")?;
        let known = self.buffers.get(&buffer.get()).copied();
        if known.is_none() {
            let message = format!("buffer {} is not filled here", buffer.get());
            self.wrong(node, &message, "fill it first; a kexec takes all of them");
        }
        known.map(|(bytes, pages)| (buffer, bytes, pages))
    }

    fn plan(&mut self, root: &Node) -> Option<LinuxPlan> {
        self.only(root, &["scenario", "about", "needs", "guest", "steps"]);
        let name = self.text(root, "scenario").map(str::to_owned);
        let about = self
            .text(root, "about")
            .map(|about| about.trim().to_owned());
        let needs = root.key("needs");
        let td = root.entry("needs").and_then(|_| {
            self.only(needs, &["td"]);
            match self.text(needs, "td")? {
                "true" => Some(true),
                "false" => Some(false),
                _ => {
                    self.wrong(
                        needs.key("td"),
                        "`td` is true or false",
                        "true where only a TD will do",
                    );
                    None
                }
            }
        });
        let guest = self.guest(root.key("guest"));
        let steps = root.key("steps").items();
        if steps.is_empty() {
            self.wrong(
                root.key("steps"),
                "there are no steps",
                "the first one is `boot`",
            );
        }
        let mut parsed = Vec::new();
        for (index, node) in steps.iter().enumerate() {
            let op = self.step(node);
            let ended = matches!(
                parsed.last(),
                Some(LinuxStep {
                    op: LinuxOp::PowerOff,
                    ..
                })
            );
            match &op {
                Some(LinuxOp::Boot) if index > 0 => {
                    self.wrong(node, "it is booted already", "`boot` is the first step")
                }
                Some(op) if index == 0 && *op != LinuxOp::Boot => {
                    self.wrong(node, "nothing is booted yet", "`boot` is the first step")
                }
                Some(_) if ended => {
                    self.wrong(node, "the guest is off", "`power_off` is the last step")
                }
                _ => {}
            }
            parsed.extend(op.map(|op| LinuxStep {
                line: node.line,
                op,
            }));
        }
        Some(LinuxPlan {
            version: VERSION,
            name: name?,
            about: about?,
            td,
            guest: guest?,
            steps: parsed,
        })
    }

    fn guest(&mut self, node: &Node) -> Option<LinuxGuest> {
        self.only(node, &["linux"]);
        let linux = node.key("linux");
        self.only(linux, &["memory", "vcpus", "append"]);
        let bytes = self.bytes(linux, "memory")?;
        let mebibytes = bytes >> 20;
        if !bytes.is_multiple_of(1 << 20) || !MEMORY.contains(&mebibytes) {
            self.wrong(
                linux.key("memory"),
                "a Linux guest has 256M to 16G, in whole MiB",
                "below 512M Linux makes no transparent huge pages",
            );
        }
        let vcpus = match linux.entry("vcpus") {
            Some(_) => self.count(linux, "vcpus")?,
            None => 1,
        };
        if !(1..=64).contains(&vcpus) {
            self.wrong(
                linux.key("vcpus"),
                "a guest has 1 to 64 vCPUs",
                "1 where `vcpus` is left out",
            );
        }
        let append = match linux.entry("append") {
            Some(_) => self.text(linux, "append")?.to_owned(),
            None => String::new(),
        };
        Some(LinuxGuest {
            mebibytes,
            vcpus,
            append,
        })
    }

    fn step(&mut self, node: &Node) -> Option<LinuxOp> {
        let (name, value) = match &node.content {
            Content::Scalar(name) => (name.as_str(), node),
            Content::Mapping(entries) if entries.len() == 1 => {
                (entries[0].key.as_str(), &entries[0].value)
            }
            _ => {
                self.wrong(
                    node,
                    "a step is one word, or one word with its values",
                    "such as `- verify: 0`",
                );
                return None;
            }
        };
        match name {
            "boot" => Some(LinuxOp::Boot),
            "settle" => Some(LinuxOp::Settle),
            "power_off" => Some(LinuxOp::PowerOff),
            "kexec" => {
                self.buffers.clear();
                Some(LinuxOp::Kexec)
            }
            "fill" => self.fill(value),
            "verify" => self
                .filled(value)
                .map(|(buffer, ..)| LinuxOp::Verify { buffer }),
            "free" => {
                let (buffer, ..) = self.filled(value)?;
                self.buffers.remove(&buffer.get());
                Some(LinuxOp::Free { buffer })
            }
            "punch" => {
                self.only(value, &["buffer", "at", "size"]);
                let (buffer, first, count, _) = self.part(value)?;
                Some(LinuxOp::Punch {
                    buffer,
                    first,
                    count,
                })
            }
            "convert" => self.convert(value),
            "load" => self.load(value),
            _ => {
                let help = match nearest(name, STEPS.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("a step is one of {}", STEPS.join(", ")),
                };
                self.wrong(node, &format!("there is no step `{name}`"), &help);
                None
            }
        }
    }

    fn fill(&mut self, node: &Node) -> Option<LinuxOp> {
        self.only(node, &["buffer", "size", "pages"]);
        let buffer = self.buffer(node, "buffer")?;
        let pages = match node.entry("pages").and_then(|entry| entry.value.text()) {
            None | Some("4K") => Pages::Small,
            Some("thp") => Pages::Transparent,
            Some("hugetlb-2M") => Pages::Hugetlb2M,
            Some("kernel") => Pages::Kernel,
            Some(_) => {
                self.wrong(
                    node.key("pages"),
                    "there are no such pages",
                    "4K, thp, hugetlb-2M or kernel",
                );
                return None;
            }
        };
        let bytes = self.bytes(node, "size")?;
        let fits = match pages {
            Pages::Small | Pages::Transparent => bytes != 0,
            Pages::Hugetlb2M => bytes != 0 && bytes.is_multiple_of(PageLevel::Size2M.bytes()),
            Pages::Kernel => bytes.is_power_of_two() && bytes <= 4 << 20,
        };
        if !fits {
            self.wrong(
                node.key("size"),
                "no buffer of these pages has this size",
                "hugetlb: multiples of 2M; kernel: a power of two up to 4M",
            );
        }
        if self
            .buffers
            .get(&buffer.get())
            .is_some_and(|&known| known != (bytes, pages))
        {
            self.wrong(
                node,
                "this buffer has another size or other pages",
                "free it first",
            );
        }
        self.buffers.insert(buffer.get(), (bytes, pages));
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
    fn part(&mut self, node: &Node) -> Option<(BufferId, u32, u32, Pages)> {
        let (buffer, bytes, pages) = self.filled(node)?;
        let at = match node.entry("at") {
            Some(_) => self.bytes(node, "at")?,
            None => 0,
        };
        let size = self.bytes(node, "size")?;
        if size == 0 || at.checked_add(size).is_none_or(|end| end > bytes) {
            self.wrong(
                node.key("size"),
                "this is not inside the buffer",
                "`at` and `size` are of the buffer's own bytes",
            );
            return None;
        }
        let page = |bytes: u64| u32::try_from(bytes / PAGE).ok();
        Some((buffer, page(at)?, page(size)?, pages))
    }

    fn convert(&mut self, node: &Node) -> Option<LinuxOp> {
        self.only(node, &["buffer", "at", "size", "to"]);
        let (buffer, first, count, pages) = self.part(node)?;
        if pages != Pages::Kernel {
            self.wrong(
                node,
                "Linux converts its own pages only",
                "fill the buffer with `pages: kernel`",
            );
        }
        let to = match self.text(node, "to")? {
            "shared" => Side::Shared,
            "private" => Side::Private,
            _ => {
                self.wrong(node.key("to"), "memory is private or shared", "to: shared");
                return None;
            }
        };
        Some(LinuxOp::Convert {
            buffer,
            first,
            count,
            to,
        })
    }

    fn load(&mut self, node: &Node) -> Option<LinuxOp> {
        if node.text() == Some("release") {
            return Some(LinuxOp::Load(Load::Release));
        }
        let kind = node.entries().first().map(|entry| entry.key.as_str());
        let known = match kind {
            Some("fragment") => &["fragment"][..],
            Some("fork") => &["fork", "processes"],
            _ => &["touch", "processes"],
        };
        self.only(node, known);
        let bytes = self.bytes(node, known[0])?;
        let load = match known[0] {
            "fragment" => Load::Fragment { bytes },
            kind => {
                let processes = match node.entry("processes") {
                    Some(_) => self.count(node, "processes")?,
                    None => 1,
                };
                match kind {
                    "fork" => Load::Fork { bytes, processes },
                    _ => Load::Touch { bytes, processes },
                }
            }
        };
        Some(LinuxOp::Load(load))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(steps: &str) -> Result<LinuxPlan, ScenarioError> {
        let text = format!(
            "scenario: linux/x\nabout: It shows something.\nguest:\n  linux: {{ memory: 768M }}\nsteps:\n{steps}"
        );
        parse_linux(Path::new("x.yaml"), &text)
    }

    #[test]
    fn every_step_is_read() {
        let plan = parse(
            "  - boot\n  - fill: { buffer: 0, size: 8M, pages: thp }\n  - verify: 0\n  \
             - punch: { buffer: 0, at: 4K, size: 8K }\n  - load: { touch: 64M, processes: 2 }\n  \
             - load: { fork: 8M }\n  - load: { fragment: 8M }\n  - load: release\n  \
             - fill: { buffer: 1, size: 2M, pages: kernel }\n  \
             - convert: { buffer: 1, size: 4K, to: shared }\n  - free: 1\n  - settle\n  - kexec\n  - power_off\n",
        )
        .unwrap();
        assert_eq!(plan.steps.len(), 14);
        let buffer = BufferId::new(0).unwrap();
        assert_eq!(
            plan.steps[3].op,
            LinuxOp::Punch {
                buffer,
                first: 1,
                count: 2
            }
        );
        assert_eq!(
            (plan.steps[3].line, plan.guest.vcpus, plan.td),
            (9, 1, None)
        );
    }

    #[test]
    fn what_is_wrong_is_underlined_with_what_would_be_right() {
        for (steps, says) in [
            ("  - boot\n  - verfy: 0\n", "did you mean `verify`?"),
            ("  - boot\n  - verify: 0\n", "fill it first"),
            (
                "  - fill: { buffer: 0, size: 4K }\n",
                "`boot` is the first step",
            ),
            ("  - boot\n  - boot\n", "`boot` is the first step"),
            (
                "  - boot\n  - power_off\n  - settle\n",
                "`power_off` is the last step",
            ),
            ("  - boot\n  - fill: { buffer: 16, size: 4K }\n", "0 to 15"),
            (
                "  - boot\n  - fill: { buffer: 0, size: 5 }\n",
                "such as 12K",
            ),
            (
                "  - boot\n  - fill: { buffer: 0, size: 3M, pages: hugetlb-2M }\n",
                "multiples of 2M",
            ),
            (
                "  - boot\n  - fill: { buffer: 0, size: 4K, pges: thp }\n",
                "did you mean `pages`?",
            ),
            (
                "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - punch: { buffer: 0, at: 4K, size: 8K }\n",
                "own bytes",
            ),
            (
                "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - convert: { buffer: 0, size: 4K, to: shared }\n",
                "pages: kernel",
            ),
            (
                "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - kexec\n  - verify: 0\n",
                "a kexec takes all",
            ),
        ] {
            let error = parse(steps).unwrap_err();
            let ScenarioError::Wrong(wrong) = &error else {
                panic!("{error}")
            };
            let help: Vec<_> = wrong
                .problems
                .iter()
                .filter_map(|problem| problem.help.clone())
                .collect();
            assert!(
                help.iter().any(|help| help.contains(says)),
                "{steps}: {help:?}"
            );
        }
    }
}
