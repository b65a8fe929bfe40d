//! Single operations and branches: from keys to [`Op`]s with addresses.

use tdxlab_plan as plan;
use tdxlab_plan::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_plan::limits::{MAX_ACTIONS, MAX_BRANCHES, WINDOW_BYTES};
use tdxlab_plan::{
    AccessKind, Expect, ExpectErrno, ExpectMapGpa, ExpectStatus, ExpectTd, Generation, Gone, Guest,
    OnVe, Op, Side, Size, VcpuId,
};

use super::expr::Bytes;
use super::guest::{aligned, extent, inside, place};
use super::model::{Branch, OneOf};
use super::read::{self, Reader};
use super::scalar::{Count, Extent, OnOff, Scalar, StopCont};
use super::yaml::Node;

/// A range that is refused for where it ends need not go far past the end.
const MAX_LEAVING: u64 = 16 << 20;

/// Makes operations of one plan.
pub(super) struct Operations {
    memory: GpaRange,
    vcpus: u16,
    slots: Vec<GpaRange>,
    fills: u16,
}

impl Operations {
    pub(super) fn new(guest: &Guest) -> Operations {
        Operations {
            memory: guest.memory,
            vcpus: guest.vcpus,
            slots: guest.slots.iter().map(|slot| slot.range).collect(),
            fills: 0,
        }
    }

    /// One operation, from the keys or the bare range at `node`. `None` after reporting an error.
    pub(super) fn one(
        &mut self,
        reader: &mut Reader<'_>,
        operation: &OneOf<'_>,
        node: &Node,
        expect: &Option<Expect>,
    ) -> Option<Op> {
        let vcpu = |reader: &mut Reader<'_>, scalar: &Option<Scalar<Count>>| {
            self.vcpu(reader, scalar.as_ref(), node.key("vcpu"))
        };
        let side = |reader: &mut Reader<'_>, scalar: &Option<Scalar<Side>>| {
            reader.get_or(scalar.as_ref(), node.key("side"), Side::Private)
        };
        let range_node = node.key("range");
        match operation {
            OneOf::Accept(accept) => {
                let vcpu = vcpu(reader, &accept.vcpu);
                let size = reader.get(&accept.level, node.key("level"));
                let level = match size? {
                    Size::Size4K | Size::Linux => PageLevel::Size4K,
                    Size::Size2M => PageLevel::Size2M,
                    Size::Size1G => PageLevel::Size1G,
                };
                Some(Op::Accept {
                    range: match expect {
                        // One that leaves memory meets a table, or an exit that no VMM can serve.
                        Some(expect)
                            if expect.td == Some(ExpectTd::Killed)
                                || expect.status == Some(ExpectStatus::SizeMismatch) =>
                        {
                            let range = reader.get(&accept.range, range_node)?;
                            aligned(reader, &range, range_node, level)?;
                            self.leaving(reader, range, range_node)?
                        }
                        _ => self.bounded(reader, &accept.range, range_node, level)?,
                    },
                    size: size?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Release(release) => {
                let vcpu = vcpu(reader, &release.vcpu);
                let level = reader.get(&release.level, node.key("level"))?;
                Some(Op::Release {
                    range: self.bounded(reader, &release.range, range_node, level)?,
                    level,
                    vcpu: vcpu?,
                })
            }
            OneOf::Touch(touch) => {
                let touch = touch.full();
                let vcpu = vcpu(reader, &touch.vcpu);
                let side = side(reader, &touch.side);
                let access = node.key("access");
                let access = reader.get_or(touch.access.as_ref(), access, AccessKind::Write);
                let on_ve = node.key("on_ve");
                let on_ve = reader.get_or(touch.on_ve.as_ref(), on_ve, OnVe::Skip);
                let same_rip = node.key("same_rip");
                let same_rip = reader.get_or(touch.same_rip.as_ref(), same_rip, false);
                let stride = node.key("stride");
                let stride = reader.get_or(touch.stride.as_ref(), stride, PageLevel::Size4K);
                Some(Op::Touch {
                    range: self.bounded(reader, &touch.range, range_node, stride?)?,
                    stride: stride?,
                    access: access?,
                    side: side?,
                    on_ve: on_ve?,
                    same_rip: same_rip?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Fill(fill) => {
                let fill = fill.full();
                let vcpu = vcpu(reader, &fill.vcpu);
                let side = side(reader, &fill.side);
                let range = self.bounded(reader, &fill.range, range_node, PageLevel::Size4K);
                Some(Op::Fill {
                    range: range?,
                    generation: self.generation()?,
                    side: side?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Verify(verify) => {
                let verify = verify.full();
                let vcpu = vcpu(reader, &verify.vcpu);
                let side = side(reader, &verify.side);
                let gone = reader.get_or(verify.gone.as_ref(), node.key("gone"), Gone::Skip);
                let range = match gone? {
                    // The range that must be gone may be large; the range read is the accepted one.
                    Gone::Skip | Gone::Ends => extent(
                        reader,
                        &verify.range,
                        range_node,
                        self.memory,
                        PageLevel::Size4K,
                    ),
                    Gone::Every => {
                        self.bounded(reader, &verify.range, range_node, PageLevel::Size4K)
                    }
                };
                Some(Op::Verify {
                    range: range?,
                    gone: gone?,
                    side: side?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Convert(convert) => {
                let vcpu = vcpu(reader, &convert.vcpu);
                let to = reader.get(&convert.to, node.key("to"));
                let page = PageLevel::Size4K;
                let status = expect.as_ref().and_then(|expect| expect.map_gpa);
                Some(Op::Convert {
                    range: match status {
                        Some(ExpectMapGpa::InvalidOperand) => {
                            let range = reader.get(&convert.range, range_node)?;
                            aligned(reader, &range, range_node, page)?;
                            self.leaving(reader, range, range_node)?
                        }
                        Some(ExpectMapGpa::AlignError) => {
                            let range = reader.get(&convert.range, range_node)?;
                            self.leaving(reader, range, range_node)?
                        }
                        _ => extent(reader, &convert.range, range_node, self.memory, page)?,
                    },
                    to: to?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Probe(probe) => {
                let probe = probe.full();
                let vcpu = vcpu(reader, &probe.vcpu);
                let stride = node.key("stride");
                let stride = reader.get_or(probe.stride.as_ref(), stride, PageLevel::Size4K);
                Some(Op::Probe {
                    range: self.bounded(reader, &probe.range, range_node, stride?)?,
                    stride: stride?,
                    vcpu: vcpu?,
                })
            }
            OneOf::Punch(call) => Some(Op::Punch {
                range: self.of_file(reader, &call.full().range, range_node, expect)?,
            }),
            OneOf::Prefault(call) => Some(Op::Prefault {
                range: self.bounded(reader, &call.full().range, range_node, PageLevel::Size4K)?,
            }),
            OneOf::Allocate(call) if refused(expect) => Some(Op::Allocate {
                range: self.of_file(reader, &call.full().range, range_node, expect)?,
            }),
            OneOf::Allocate(call) => Some(Op::Allocate {
                range: self.bounded(reader, &call.full().range, range_node, PageLevel::Size4K)?,
            }),
            OneOf::Pin(call) => Some(Op::Pin {
                range: self.bounded(reader, &call.full().range, range_node, PageLevel::Size4K)?,
            }),
            OneOf::Unpin(call) => Some(Op::Unpin {
                range: self.bounded(reader, &call.full().range, range_node, PageLevel::Size4K)?,
            }),
            OneOf::Slot(call) => {
                let change = reader.get(&call.change, node.key("change"));
                Some(Op::Slot {
                    range: self.slot(reader, &call.range, range_node)?,
                    change: change?,
                })
            }
            OneOf::Conversions(call) => {
                let answer = reader.get(&call.vmm, node.key("vmm"));
                let page = PageLevel::Size4K;
                Some(Op::Conversions {
                    range: extent(reader, &call.range, range_node, self.memory, page)?,
                    answer: answer?,
                })
            }
            OneOf::Attributes(call) => {
                let to = reader.get(&call.to, node.key("to"));
                Some(Op::SetAttributes {
                    range: self.of_file(reader, &call.range, range_node, expect)?,
                    to: to?,
                })
            }
            OneOf::DirtyLog(switch) => Some(Op::DirtyLog {
                on: reader.get(switch, node)? == OnOff::On,
            }),
            OneOf::Vm(order) => Some(match reader.get(order, node)? {
                StopCont::Stop => Op::Stop,
                StopCont::Cont => Op::Cont,
            }),
        }
    }

    /// Parallel branches; the list is at `node`.
    pub(super) fn parallel(
        &mut self,
        reader: &mut Reader<'_>,
        branches: &[Branch],
        node: &Node,
    ) -> Option<Vec<plan::Branch>> {
        if branches.len() < 2 || branches.len() > MAX_BRANCHES {
            let (message, label) = match branches.len() {
                1 => (
                    "a single branch has nothing to run beside".to_owned(),
                    "only one",
                ),
                many => (
                    format!("{many} branches cannot run side by side"),
                    "too many",
                ),
            };
            let help = format!("from 2 to {MAX_BRANCHES} branches, each with its own `-`");
            reader.push(read::at(&node.span, message, label, help));
            return None;
        }
        let mut made: Vec<Option<plan::Branch>> = Vec::new();
        let mut taken: Vec<(VcpuId, u32)> = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            let node = node.item(index);
            let ops = self.branch(reader, branch, node);
            if let Some(vcpu) = ops
                .as_ref()
                .and_then(|branch| branch.0.iter().find_map(Op::vcpu))
            {
                match taken.iter().find(|(other, _)| *other == vcpu) {
                    Some((_, line)) => {
                        reader.push(read::at(
                            &node.span,
                            format!("two branches run on vCPU {}", vcpu.0),
                            "shares its vCPU",
                            format!(
                                "the branch on line {line} does, too; give this one another \
                                 `vcpu`, or put both into one branch"
                            ),
                        ));
                        return None;
                    }
                    None => taken.push((vcpu, node.line)),
                }
            }
            made.push(ops);
        }
        made.into_iter().collect()
    }

    /// One branch: all operations of one vCPU, or all of the host.
    fn branch(
        &mut self,
        reader: &mut Reader<'_>,
        branch: &Branch,
        node: &Node,
    ) -> Option<plan::Branch> {
        let mut ops: Vec<Op> = Vec::new();
        for (index, operation) in branch.operations().iter().enumerate() {
            // A branch of one operation is that operation; else it is a list.
            let node = node.item(index);
            let (key, operation) = operation.operation()?;
            if key == "verify" {
                reader.push(read::at(
                    &node.span,
                    "`verify` cannot race".to_owned(),
                    "in a branch",
                    "what it must find is known only at rest; put it after `parallel`".to_owned(),
                ));
                return None;
            }
            let op = self.one(reader, &operation, node.key(key), &None)?;
            if let Some(first) = ops.first().filter(|first| first.vcpu() != op.vcpu()) {
                let (message, help) = match (first.vcpu(), op.vcpu()) {
                    (Some(first), Some(other)) => (
                        format!("a branch on vCPUs {} and {}", first.0, other.0),
                        "all operations of a branch run on one vCPU; make two branches of it",
                    ),
                    _ => (
                        "a branch of both guest and host".to_owned(),
                        "host calls stand in a branch of their own",
                    ),
                };
                reader.push(read::at(
                    &node.span,
                    message,
                    "runs elsewhere",
                    help.to_owned(),
                ));
                return None;
            }
            ops.push(op);
        }
        Some(plan::Branch(ops))
    }

    fn vcpu(
        &self,
        reader: &mut Reader<'_>,
        scalar: Option<&Scalar<Count>>,
        node: &Node,
    ) -> Option<VcpuId> {
        let vcpu = reader.get_or(scalar, node, 0)?;
        match u16::try_from(vcpu) {
            Ok(index) if index < self.vcpus => Some(VcpuId(index)),
            _ => {
                let many = self.vcpus;
                let help = match many {
                    1 => "it is vCPU 0; `guest: { vcpus: 2 }` gives it another".to_owned(),
                    _ => format!(
                        "they are 0 to {}; `vcpus` of `guest` says how many",
                        many - 1
                    ),
                };
                let plural = if many == 1 { "" } else { "s" };
                let message = format!("there is no vCPU {vcpu}: the guest has {many} vCPU{plural}");
                reader.wrong(node, message, "no such vCPU", help);
                None
            }
        }
    }

    /// Reads a range in which each `level` is a separate action.
    fn bounded(
        &self,
        reader: &mut Reader<'_>,
        scalar: &Scalar<Extent>,
        node: &Node,
        level: PageLevel,
    ) -> Option<GpaRange> {
        let range = extent(reader, scalar, node, self.memory, level)?;
        let actions = range.bytes() / level.bytes();
        if actions > MAX_ACTIONS {
            reader.wrong(
                node,
                format!("{} are {actions} actions of {level}", Bytes(range.bytes())),
                "too much for one step",
                format!(
                    "at most {MAX_ACTIONS}, that is {}; only `convert`, `punch` and `verify` \
                     reach over more",
                    Bytes(MAX_ACTIONS * level.bytes())
                ),
            );
            return None;
        }
        Some(range)
    }

    /// Reads the range of a call on the guest_memfd. It may end past test memory, and may be unaligned
    /// where the step tests that.
    fn of_file(
        &self,
        reader: &mut Reader<'_>,
        scalar: &Scalar<Extent>,
        node: &Node,
        expect: &Option<Expect>,
    ) -> Option<GpaRange> {
        let range = reader.get(scalar, node)?;
        if !refused(expect) {
            aligned(reader, &range, node, PageLevel::Size4K)?;
        }
        if range.start > self.memory.bytes() {
            // Likely a slip: a hole past the end has to begin at the end or before it.
            inside(reader, range, node, self.memory)?;
            return None;
        }
        if range.end > WINDOW_BYTES - self.memory.start().as_u64() {
            let message = format!("the range ends at {}", Bytes(range.end));
            let help = format!(
                "at most {}",
                Bytes(WINDOW_BYTES - self.memory.start().as_u64())
            );
            reader.wrong(node, message, "out of bounds", help);
            return None;
        }
        place(self.memory, range)
    }

    /// The addresses of a range that starts in test memory and may end past it, where the step says
    /// that it is refused for that.
    fn leaving(
        &self,
        reader: &mut Reader<'_>,
        range: std::ops::Range<u64>,
        node: &Node,
    ) -> Option<GpaRange> {
        if range.start >= self.memory.bytes() {
            inside(reader, range, node, self.memory)?;
            return None;
        }
        let most = WINDOW_BYTES - self.memory.start().as_u64();
        if range.end > most || range.end > self.memory.bytes() + MAX_LEAVING {
            let message = format!("the range ends at {}", Bytes(range.end));
            let help = "end it nearer to the end of test memory".to_owned();
            reader.wrong(node, message, "out of bounds", help);
            return None;
        }
        place(self.memory, range)
    }

    /// The range of a memory slot.
    fn slot(
        &self,
        reader: &mut Reader<'_>,
        scalar: &Scalar<Extent>,
        node: &Node,
    ) -> Option<GpaRange> {
        let range = extent(reader, scalar, node, self.memory, PageLevel::Size4K)?;
        if !self.slots.contains(&range) {
            let known: Vec<String> = self
                .slots
                .iter()
                .map(|slot| {
                    let offset = |gpa: Gpa| Bytes(gpa.as_u64() - self.memory.start().as_u64());
                    format!("{}..{}", offset(slot.start()), offset(slot.end()))
                })
                .collect();
            reader.wrong(
                node,
                "no memory slot serves exactly this range".to_owned(),
                "no slot",
                format!("the slots of `guest` are {}", known.join(", ")),
            );
            return None;
        }
        Some(range)
    }

    fn generation(&mut self) -> Option<Generation> {
        self.fills += 1;
        Generation::new(self.fills)
    }
}

/// Whether the step is there to be refused.
fn refused(expect: &Option<Expect>) -> bool {
    expect.as_ref().and_then(|expect| expect.errno) == Some(ExpectErrno::EINVAL)
}
