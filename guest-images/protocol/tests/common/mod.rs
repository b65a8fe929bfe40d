//! Any message, for proptest, and the largest ones.

pub(crate) mod linux;

use proptest::collection::vec;
use proptest::prelude::*;
use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::message::*;
use tdxlab_protocol::pattern::Generation;

fn level() -> impl Strategy<Value = PageLevel> {
    proptest::sample::select(&PageLevel::ALL)
}

fn gpa() -> impl Strategy<Value = Gpa> {
    any::<u64>().prop_map(Gpa::new)
}

fn range() -> impl Strategy<Value = GpaRange> {
    any::<(u64, u64)>()
        .prop_map(|(a, b)| GpaRange::new(Gpa::new(a.min(b)), Gpa::new(a.max(b))).unwrap())
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Private), Just(Side::Shared)]
}

fn generation() -> impl Strategy<Value = Generation> {
    (1..=Generation::MAX.get()).prop_map(|number| Generation::new(number).unwrap())
}

fn vcpu() -> impl Strategy<Value = VcpuId> {
    any::<u16>().prop_map(VcpuId)
}

fn text() -> impl Strategy<Value = Text> {
    ".{0,20}".prop_map(|text| Text::try_from(text.as_str()).unwrap())
}

fn command() -> impl Strategy<Value = Command> {
    let size = prop_oneof![
        level().prop_map(AcceptSize::Exactly),
        Just(AcceptSize::Linux)
    ];
    let access = prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write)];
    let on_ve = prop_oneof![Just(OnVe::Skip), Just(OnVe::Accept)];
    prop_oneof![
        (range(), size).prop_map(|(range, size)| Command::Accept { range, size }),
        (range(), level(), access, side(), on_ve, any::<bool>()).prop_map(
            |(range, stride, access, side, on_ve, same_rip)| Command::Touch {
                range,
                stride,
                access,
                side,
                on_ve,
                same_rip,
            }
        ),
        (range(), generation(), side()).prop_map(|(range, generation, side)| Command::Fill {
            range,
            generation,
            side
        }),
        (range(), side()).prop_map(|(range, side)| Command::Verify { range, side }),
        (range(), side()).prop_map(|(range, to)| Command::Convert { range, to }),
        (range(), level()).prop_map(|(range, stride)| Command::Probe { range, stride }),
    ]
}

/// Any request.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    let windows = prop_oneof![
        Just(Windows::HostOwned),
        gpa().prop_map(|limit| Windows::Direct { limit })
    ];
    let task = (vcpu(), command()).prop_map(|(vcpu, command)| Task { vcpu, command });
    prop_oneof![
        (any::<u16>(), windows)
            .prop_map(|(version, windows)| Request::Configure { version, windows }),
        (any::<u32>(), vec(task, 0..=MAX_TASKS)).prop_map(|(id, tasks)| Request::Run {
            id,
            tasks: tasks.into_iter().collect()
        }),
        any::<u8>().prop_map(|code| Request::PowerOff { code }),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Done),
        Just(Access::Ve),
        Just(Access::Accepted),
        any::<u64>().prop_map(|status| Access::AcceptFailed { status }),
        (any::<u32>(), gpa()).prop_map(|(reason, gpa)| Access::StrangeVe { reason, gpa }),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        generation().prop_map(Content::Own),
        Just(Content::Zero),
        (generation(), any::<i64>()).prop_map(|(generation, distance)| Content::Foreign {
            generation,
            distance
        }),
        (any::<u16>(), vec(any::<(u16, u64)>(), 0..=MAX_BAD_WORDS)).prop_map(
            |(like_first, words)| Content::Torn {
                like_first,
                words: words.into_iter().collect()
            }
        ),
        Just(Content::NotAccepted),
    ]
}

/// Any run of results.
fn run() -> impl Strategy<Value = Run> {
    prop_oneof![
        (gpa(), level(), any::<(u32, u64)>()).prop_map(|(start, level, (count, status))| {
            Run::Accept {
                start,
                level,
                count,
                status,
            }
        }),
        (gpa(), any::<u32>(), access()).prop_map(|(start, count, outcome)| Run::Access {
            start,
            count,
            outcome
        }),
        (gpa(), any::<u32>(), content()).prop_map(|(start, count, content)| Run::Content {
            start,
            count,
            content
        }),
        (any::<u64>(), gpa(), any::<u32>()).prop_map(|(status, stopped_at, calls)| Run::MapGpa {
            status,
            stopped_at,
            calls
        }),
        (gpa(), any::<(u32, u64, u8, bool, u64)>()).prop_map(
            |(start, (count, status, level, pending, attributes))| Run::Probe {
                start,
                count,
                status,
                level,
                pending,
                attributes,
            }
        ),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(guest, lab)| Refusal::Version { guest, lab }),
        vcpu().prop_map(Refusal::NoSuchVcpu),
        vcpu().prop_map(Refusal::VcpuTwice),
        range().prop_map(Refusal::BadRange),
        Just(Refusal::NotConfigured),
        Just(Refusal::Garbled),
        vcpu().prop_map(Refusal::NoTdcall),
        Just(Refusal::NoHost),
    ]
}

/// Any reply.
pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        any::<(u16, bool, u16, u8, u64, Option<bool>)>().prop_map(
            |(version, td, vcpus, gpa_width, attributes, pending_ve_disabled)| {
                Reply::Hello(Hello {
                    version,
                    td,
                    vcpus,
                    gpa_width,
                    attributes,
                    pending_ve_disabled,
                })
            }
        ),
        any::<u16>().prop_map(|vcpus| Reply::Ready { vcpus }),
        (any::<u32>(), vcpu(), vec(run(), 0..=MAX_RUNS)).prop_map(|(id, vcpu, runs)| {
            Reply::Part {
                id,
                vcpu,
                runs: runs.into_iter().collect(),
            }
        }),
        (any::<u32>(), vcpu(), any::<(u64, u64, u64)>()).prop_map(
            |(id, vcpu, (tdcalls, ve, faults))| Reply::Finished {
                id,
                vcpu,
                counts: Counts {
                    tdcalls,
                    ve,
                    faults
                }
            }
        ),
        any::<u32>().prop_map(|id| Reply::Idle { id }),
        refusal().prop_map(|reason| Reply::Refused { reason }),
        (vcpu(), text(), any::<u32>(), text()).prop_map(|(vcpu, file, line, message)| {
            Reply::Panic {
                vcpu,
                file,
                line,
                message,
            }
        }),
    ]
}

/// The request with the longest encoding.
pub(crate) fn largest_request() -> Request {
    let end = Gpa::new(u64::MAX);
    let task = Task {
        vcpu: VcpuId(u16::MAX),
        command: Command::Touch {
            range: GpaRange::new(end, end).unwrap(),
            stride: PageLevel::Size1G,
            access: AccessKind::Write,
            side: Side::Shared,
            on_ve: OnVe::Accept,
            same_rip: false,
        },
    };
    Request::Run {
        id: u32::MAX,
        tasks: core::iter::repeat_n(task, MAX_TASKS).collect(),
    }
}

/// The reply with the longest encoding.
pub(crate) fn largest_reply() -> Reply {
    let torn = Run::Content {
        start: Gpa::new(u64::MAX),
        count: u32::MAX,
        content: Content::Torn {
            like_first: u16::MAX,
            words: core::iter::repeat_n((u16::MAX, u64::MAX), MAX_BAD_WORDS).collect(),
        },
    };
    Reply::Part {
        id: u32::MAX,
        vcpu: VcpuId(u16::MAX),
        runs: core::iter::repeat_n(torn, MAX_RUNS).collect(),
    }
}
