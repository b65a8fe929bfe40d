//! Types of a scenario file. The JSON Schema is derived from them, and [`super::shape`] checks keys
//! with it.

use std::borrow::Cow;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use tdxlab_plan::addr::PageLevel;
use tdxlab_plan::limits::{MAX_BRANCHES, MAX_OPERATIONS, MAX_VCPUS};
use tdxlab_plan::{
    AccessKind, Backing, Converts, ExpectErrno, ExpectMapGpa, ExpectStatus, ExpectTd, Gone,
    HostKind, OnVe, Side, Size, SlotChange, TdxModule, VmmAnswer,
};

pub(super) use super::draw::{Draw, List};
use super::scalar::{Bytes, Change, Count, Extent, Literal, OnOff, Scalar, StopCont};
use super::variant::Variables;

/// One scenario: what it shows, what it needs, and what is done step by step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Its name: folder and file name without `.yaml`, such as `punch/head-and-tail`.
    // As it is written: `0x10` is a name, and not a number.
    #[schemars(with = "Scalar<Literal>")]
    pub(super) scenario: String,
    /// What it shows, in one or two sentences.
    pub(super) about: String,
    /// What host and design must offer; else it is skipped, by name of the need.
    #[serde(default)]
    pub(super) needs: Needs,
    /// The guest to boot.
    pub(super) guest: Guest,
    /// Seed of all that is random, unless the command line gives one. 1 where absent.
    pub(super) seed: Option<Scalar<Count>>,
    /// Variants by name, each of which gives the same variables a value.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) cases: IndexMap<String, IndexMap<String, Scalar<Literal>>>,
    /// Variables with all their values; every combination is a plan.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) matrix: IndexMap<String, List<Scalar<Literal>>>,
    /// Variables whose value is drawn from the seed, once for each plan.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) draw: IndexMap<String, Draw>,
    /// What is done, in order.
    pub(super) steps: List<Step>,
}

impl File {
    /// Its variables.
    pub(super) fn variables(&self) -> Variables<'_> {
        Variables {
            cases: &self.cases,
            matrix: &self.matrix,
            draw: &self.draw,
        }
    }
}

/// What host and design must offer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1))]
pub(super) struct Needs {
    /// Private memory is mapped by leaves of this size or larger.
    pub(super) private_leaf: Option<Scalar<PageLevel>>,
    /// Private memory is mapped by leaves of at most this size.
    pub(super) private_leaf_at_most: Option<Scalar<PageLevel>>,
    /// Holes of this alignment can be punched.
    pub(super) hole_alignment: Option<Scalar<PageLevel>>,
    /// Holes that are aligned to less than this are refused with EINVAL.
    pub(super) hole_alignment_at_least: Option<Scalar<PageLevel>>,
    /// How memory converts between private and shared.
    pub(super) converts: Option<Scalar<Converts>>,
    /// Version of the TDX module. Hosts of software play it.
    pub(super) module: Option<Scalar<TdxModule>>,
    /// The hosts on which it makes sense; any where absent.
    pub(super) hosts: Option<List<Scalar<HostKind>>>,
}

/// The guest to boot.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    /// Size of test memory. All ranges are offsets into it.
    #[schemars(extend("minimum" = 4096))]
    pub(super) memory: Scalar<Bytes>,
    /// Number of vCPUs, 1 to 64. 1 where absent.
    #[schemars(extend("minimum" = 1, "maximum" = MAX_VCPUS))]
    pub(super) vcpus: Option<Scalar<Count>>,
    /// TD attribute SEPT_VE_DISABLE: touching a pending page kills the TD. `false` where absent.
    pub(super) sept_ve_disable: Option<Scalar<bool>>,
    /// Memory slots, in address order, over all of test memory. One where absent.
    pub(super) slots: Option<List<Slot>>,
    /// Ranges of the initial image: added as 4K pages before the TD runs.
    pub(super) image: Option<List<Scalar<Extent>>>,
    /// Makes it a plain VM: what is behind its test memory. Only the host `kvm` has plain VMs.
    pub(super) backing: Option<Scalar<Backing>>,
}

/// A memory slot.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    /// The test memory it serves.
    pub(super) range: Scalar<Extent>,
    /// Offset of its first byte in the guest_memfd.
    pub(super) gmem: Scalar<Bytes>,
}

/// An operation with all its keys, or just the range where the rest may stay as it is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OrRange<T> {
    /// Just the range.
    Range(Scalar<Extent>),
    /// All keys.
    Full(T),
}

impl<T: Clone + From<Scalar<Extent>>> OrRange<T> {
    /// All keys, those left out absent.
    pub(super) fn full(&self) -> Cow<'_, T> {
        match self {
            OrRange::Range(range) => Cow::Owned(T::from(range.clone())),
            OrRange::Full(full) => Cow::Borrowed(full),
        }
    }
}

/// Defines [`Step`] and [`Operation`]: an operation may stand in both, the rest only in a step.
macro_rules! operations {
    ($($(#[$doc:meta])* $field:ident / $variant:ident: $keys:ty,)+) => {
        /// One step: exactly one operation, and what is expected of it.
        #[derive(Clone, Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(transform = exactly_one_operation)]
        pub(super) struct Step {
            $($(#[$doc])* pub(super) $field: Option<$keys>,)+
            /// Branches that run side by side.
            #[schemars(extend("minItems" = 2, "maxItems" = MAX_BRANCHES))]
            pub(super) parallel: Option<List<Branch>>,
            /// Steps that are done several times.
            pub(super) repeat: Option<Repeat>,
            /// What the step must show. The predictor judges it anyway; what stands here must
            /// agree with it.
            pub(super) expect: Option<Expect>,
        }

        /// One operation of a branch.
        #[derive(Clone, Debug, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(transform = exactly_one_operation)]
        pub(super) struct Operation {
            $($(#[$doc])* pub(super) $field: Option<$keys>,)+
        }

        /// The operation that is there.
        pub(super) enum OneOf<'a> {
            $(#[doc = stringify!($field)] $variant(&'a $keys),)+
        }

        impl Step {
            /// Its operation, with the key it stands under; none for `parallel` and `repeat`.
            pub(super) fn operation(&self) -> Option<(&'static str, OneOf<'_>)> {
                $(if let Some(keys) = &self.$field {
                    return Some((stringify!($field), OneOf::$variant(keys)));
                })+
                None
            }
        }

        impl Operation {
            /// The operation, with the key it stands under.
            pub(super) fn operation(&self) -> Option<(&'static str, OneOf<'_>)> {
                $(if let Some(keys) = &self.$field {
                    return Some((stringify!($field), OneOf::$variant(keys)));
                })+
                None
            }
        }
    };
}

operations! {
    /// Guest: TDG.MEM.PAGE.ACCEPT over the range, at one level.
    accept / Accept: Accept,
    /// Guest: TDG.MEM.PAGE.RELEASE over the range: accepted pages become pending again.
    release / Release: Release,
    /// Guest: access one word per stride.
    touch / Touch: OrRange<Touch>,
    /// Guest: write every word with its address and a fresh generation.
    fill / Fill: OrRange<Fill>,
    /// Guest: read every page that must be there and say whose data it holds.
    verify / Verify: OrRange<Verify>,
    /// Guest: MapGPA, to shared or back to private.
    convert / Convert: Convert,
    /// Guest: TDG.MEM.PAGE.ATTR.RD once per stride.
    probe / Probe: OrRange<Probe>,
    /// Host: fallocate(PUNCH_HOLE) on the guest_memfd. May end past test memory.
    punch / Punch: OrRange<HostCall>,
    /// Host: KVM_PRE_FAULT_MEMORY.
    prefault / Prefault: OrRange<HostCall>,
    /// Host: fallocate on the guest_memfd, mapping nothing.
    allocate / Allocate: OrRange<HostCall>,
    /// Host: take a reference to every shared page of the range, as a device does before DMA.
    pin / Pin: OrRange<HostCall>,
    /// Host: drop these references.
    unpin / Unpin: OrRange<HostCall>,
    /// Host: delete a memory slot under the running guest, or add it again.
    slot / Slot: SlotCall,
    /// Host: what the VMM answers from now on to conversions that touch the range.
    conversions / Conversions: Conversions,
    /// Host: KVM_SET_MEMORY_ATTRIBUTES2 on the guest_memfd: private or shared, without asking the guest.
    attributes / Attributes: Attributes,
    /// Host: log which pages the guest writes, or stop that. Plain VMs only.
    dirty_log / DirtyLog: Scalar<OnOff>,
    /// Host: stop all vCPUs, or let them go on. Plain VMs only.
    vm / Vm: Scalar<StopCont>,
}

/// Says in the schema that a step is exactly one of its operations.
pub(super) fn exactly_one_operation(schema: &mut Schema) {
    let keys: Vec<String> = schema
        .get("properties")
        .and_then(|properties| properties.as_object())
        .map(|properties| {
            properties
                .keys()
                .filter(|key| *key != "expect")
                .cloned()
                .collect()
        })
        .unwrap_or_default();
    let one_of: Vec<_> = keys
        .iter()
        .map(|key| serde_json::json!({ "required": [key] }))
        .collect();
    schema.insert("oneOf".to_owned(), one_of.into());
}

/// A branch of `parallel`: one operation, or several in order.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Branch {
    /// One operation.
    One(Box<Operation>),
    /// Several, in order.
    Several(List<Operation>),
}

impl Branch {
    /// Its operations.
    pub(super) fn operations(&self) -> &[Operation] {
        match self {
            Branch::One(operation) => std::slice::from_ref(operation),
            Branch::Several(operations) => &operations.0,
        }
    }
}

/// Steps that are done several times.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// How often.
    #[schemars(extend("minimum" = 1, "maximum" = MAX_OPERATIONS))]
    pub(super) times: Scalar<Count>,
    /// Variable that counts the rounds, from 0.
    #[serde(rename = "as")]
    pub(super) counter: Option<String>,
    /// Variables drawn anew in every round.
    #[serde(default)]
    #[schemars(extend("minProperties" = 1))]
    pub(super) draw: IndexMap<String, Draw>,
    /// What is done in every round.
    pub(super) steps: List<Step>,
}

/// TDG.MEM.PAGE.ACCEPT over a range.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Accept {
    /// What to accept; aligned to the level.
    pub(super) range: Scalar<Extent>,
    /// `4K`, `2M`, `1G`, or `linux`: 1G, then 2M, then 4K, as Linux tries them.
    pub(super) level: Scalar<Size>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// TDG.MEM.PAGE.RELEASE over a range.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    /// What to give back; aligned to the level.
    pub(super) range: Scalar<Extent>,
    /// `4K` or `2M`: the size at which it is mapped.
    pub(super) level: Scalar<PageLevel>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// One access per stride.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Touch {
    /// What to touch; aligned to the stride.
    pub(super) range: Scalar<Extent>,
    /// Distance between accesses. 4K where absent.
    pub(super) stride: Option<Scalar<PageLevel>>,
    /// Load or store. `write` where absent; it leaves the content alone.
    pub(super) access: Option<Scalar<AccessKind>>,
    /// Through which half of GPA space. `private` where absent.
    pub(super) side: Option<Scalar<Side>>,
    /// What the guest does on #VE: go on, or accept 4K and try again. `skip` where absent.
    pub(super) on_ve: Option<Scalar<OnVe>>,
    /// One instruction makes all accesses, so that the zero-step filter of the TDX module counts those
    /// that fault. `false` where absent.
    pub(super) same_rip: Option<Scalar<bool>>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// Writes a fresh generation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fill {
    /// What to write.
    pub(super) range: Scalar<Extent>,
    /// Through which half of GPA space. `private` where absent.
    pub(super) side: Option<Scalar<Side>>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// Reads and classifies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    /// What to read.
    pub(super) range: Scalar<Extent>,
    /// What to do about memory that must be gone: leave it alone, touch the ends of each such
    /// extent, or all of it. `skip` where absent.
    pub(super) gone: Option<Scalar<Gone>>,
    /// Through which half of GPA space. `private` where absent.
    pub(super) side: Option<Scalar<Side>>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// MapGPA.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Convert {
    /// What to convert.
    pub(super) range: Scalar<Extent>,
    /// To which side.
    pub(super) to: Scalar<Side>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// TDG.MEM.PAGE.ATTR.RD once per stride.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    /// What to probe; aligned to the stride.
    pub(super) range: Scalar<Extent>,
    /// Distance between probes. 4K where absent.
    pub(super) stride: Option<Scalar<PageLevel>>,
    /// On which vCPU. 0 where absent.
    pub(super) vcpu: Option<Scalar<Count>>,
}

/// A memory slot that goes or comes back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotCall {
    /// The range that the slot serves, all of it.
    pub(super) range: Scalar<Extent>,
    /// `delete` it, or `add` it again as it was.
    pub(super) change: Scalar<SlotChange>,
}

/// What the VMM answers to conversions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversions {
    /// Conversions that touch it are meant.
    pub(super) range: Scalar<Extent>,
    /// `serve` them, `delay` each by one RETRY, or `refuse` them.
    pub(super) vmm: Scalar<VmmAnswer>,
}

/// A change of attributes in the guest_memfd.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Attributes {
    /// Where. May end past test memory.
    pub(super) range: Scalar<Extent>,
    /// To which side.
    pub(super) to: Scalar<Side>,
}

/// A call of the host on a range.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HostCall {
    /// Where.
    pub(super) range: Scalar<Extent>,
}

macro_rules! from_range {
    ($($keys:ident { $($absent:ident),* })+) => {
        $(impl From<Scalar<Extent>> for $keys {
            fn from(range: Scalar<Extent>) -> $keys {
                $keys { range, $($absent: None),* }
            }
        })+
    };
}

from_range! {
    Touch { stride, access, side, on_ve, same_rip, vcpu }
    Fill { side, vcpu }
    Verify { gone, side, vcpu }
    Probe { stride, vcpu }
    HostCall {}
}

/// What a step must show.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(super) struct Expect {
    /// Split events.
    pub(super) splits: Option<Scalar<Count>>,
    /// Change of `pages_4k`.
    pub(super) pages_4k: Option<Scalar<Change>>,
    /// Change of `pages_2m`.
    pub(super) pages_2m: Option<Scalar<Change>>,
    /// Change of `pages_1g`.
    pub(super) pages_1g: Option<Scalar<Change>>,
    /// VM exits of type ACCEPT.
    pub(super) accept_exits: Option<Scalar<Count>>,
    /// The one status that every ACCEPT of the step returns.
    pub(super) status: Option<Scalar<ExpectStatus>>,
    /// How the host call ends.
    pub(super) errno: Option<Scalar<ExpectErrno>>,
    /// What the guest gets for the MapGPA of the step.
    pub(super) map_gpa: Option<Scalar<ExpectMapGpa>>,
    /// Whether the TD survives.
    pub(super) td: Option<Scalar<ExpectTd>>,
    /// Most S-EPT entries looked at to decide the splits.
    pub(super) entries_at_most: Option<Scalar<Count>>,
}
