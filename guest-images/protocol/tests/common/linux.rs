//! Any message of a Linux guest, for proptest, and the largest ones.

use proptest::collection::vec;
use proptest::prelude::*;
use tdxlab_protocol::linux::*;
use tdxlab_protocol::message::{Content, MAX_BAD_WORDS, Text};

use super::{content, generation, gpa, side, text};

fn buffer() -> impl Strategy<Value = BufferId> {
    (0..MAX_BUFFERS).prop_map(|number| BufferId::new(number).unwrap())
}

fn pages() -> impl Strategy<Value = Pages> {
    prop_oneof![
        Just(Pages::Small),
        Just(Pages::Transparent),
        Just(Pages::Hugetlb2M),
        Just(Pages::Kernel),
    ]
}

fn load() -> impl Strategy<Value = Load> {
    prop_oneof![
        any::<(u64, u16)>().prop_map(|(bytes, processes)| Load::Touch { bytes, processes }),
        any::<(u64, u16)>().prop_map(|(bytes, processes)| Load::Fork { bytes, processes }),
        any::<u64>().prop_map(|bytes| Load::Fragment { bytes }),
        Just(Load::Release),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let witness = proptest::sample::select(&Witness::ALL);
    prop_oneof![
        Just(Ask::Hello),
        (buffer(), any::<u64>(), pages(), generation()).prop_map(
            |(buffer, bytes, pages, generation)| Ask::Fill {
                buffer,
                bytes,
                pages,
                generation
            }
        ),
        buffer().prop_map(|buffer| Ask::Where { buffer }),
        buffer().prop_map(|buffer| Ask::Verify { buffer }),
        buffer().prop_map(|buffer| Ask::Free { buffer }),
        (buffer(), any::<(u32, u32)>(), side()).prop_map(|(buffer, (first, count), to)| {
            Ask::Convert {
                buffer,
                first,
                count,
                to,
            }
        }),
        load().prop_map(Ask::Load),
        witness.prop_map(Ask::Read),
        ("[ -~]{0,80}", any::<u32>()).prop_map(|(path, most)| Ask::ReadFile {
            path: path.as_str().try_into().unwrap(),
            most
        }),
        any::<[[u8; 32]; 2]>().prop_map(|data| Ask::Report { data }),
        any::<[[u8; 32]; 2]>().prop_map(|data| Ask::Quote { data }),
        "[ -~]{0,80}".prop_map(|append| Ask::Kexec {
            append: append.as_str().try_into().unwrap()
        }),
        Just(Ask::PowerOff),
    ]
}

/// Any request.
pub(crate) fn request() -> impl Strategy<Value = LinuxRequest> {
    (any::<u32>(), ask()).prop_map(|(id, ask)| LinuxRequest { id, ask })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Done),
        any::<(u64, u64)>().prop_map(|(bytes, huge)| Outcome::Filled { bytes, huge }),
        any::<(u64, u32, u32)>().prop_map(|(bytes, wrong, moved)| Outcome::Verified {
            bytes,
            wrong,
            moved
        }),
        any::<(u64, bool)>().prop_map(|(bytes, cut)| Outcome::Read { bytes, cut }),
        any::<(u64, u16)>().prop_map(|(bytes, failed)| Outcome::Loaded { bytes, failed }),
    ]
}

fn extent() -> impl Strategy<Value = Extent> {
    (gpa(), any::<u32>()).prop_map(|(start, pages)| Extent { start, pages })
}

fn finding() -> impl Strategy<Value = Finding> {
    (any::<(u32, u32)>(), gpa(), gpa(), content()).prop_map(
        |((page, count), at, filled_at, content)| Finding {
            page,
            count,
            at,
            filled_at,
            content,
        },
    )
}

/// Any reply.
pub(crate) fn reply() -> impl Strategy<Value = LinuxReply> {
    let hello = (any::<(u16, bool, u16, u32, bool, bool)>(), text()).prop_map(
        |((version, td, vcpus, uptime_ms, kexec, converts), release)| {
            LinuxReply::Hello(LinuxHello {
                version,
                td,
                vcpus,
                release,
                uptime_ms,
                kexec,
                converts,
            })
        },
    );
    prop_oneof![
        hello,
        any::<(u32, u64)>().prop_map(|(id, bytes)| LinuxReply::Progress { id, bytes }),
        (any::<u32>(), vec(extent(), 0..=MAX_EXTENTS)).prop_map(|(id, extents)| {
            LinuxReply::Extents {
                id,
                extents: extents.into_iter().collect(),
            }
        }),
        (any::<u32>(), vec(finding(), 0..=MAX_FINDINGS)).prop_map(|(id, findings)| {
            LinuxReply::Findings {
                id,
                findings: findings.into_iter().collect(),
            }
        }),
        (any::<u32>(), vec(any::<u8>(), 0..=MAX_BYTES)).prop_map(|(id, bytes)| {
            LinuxReply::Bytes {
                id,
                bytes: bytes.into_iter().collect(),
            }
        }),
        (any::<u32>(), outcome()).prop_map(|(id, outcome)| LinuxReply::Done { id, outcome }),
        (any::<(u32, i32)>(), text()).prop_map(|((id, errno), doing)| LinuxReply::Failed {
            id,
            failure: Failure { doing, errno },
        }),
        (text(), any::<u32>(), text()).prop_map(|(file, line, message)| LinuxReply::Panic {
            file,
            line,
            message
        }),
    ]
}

/// The request with the longest encoding.
pub(crate) fn largest_request() -> LinuxRequest {
    let append = "x".repeat(MAX_APPEND).as_str().try_into().unwrap();
    LinuxRequest {
        id: u32::MAX,
        ask: Ask::Kexec { append },
    }
}

/// Replies of the kinds that can be long, each with its longest encoding.
pub(crate) fn largest_replies() -> Vec<LinuxReply> {
    let far = tdxlab_protocol::addr::Gpa::new(u64::MAX);
    let id = u32::MAX;
    let finding = Finding {
        page: u32::MAX,
        count: u32::MAX,
        at: far,
        filled_at: far,
        content: Content::Torn {
            like_first: u16::MAX,
            words: core::iter::repeat_n((u16::MAX, u64::MAX), MAX_BAD_WORDS).collect(),
        },
    };
    let extent = Extent {
        start: far,
        pages: u32::MAX,
    };
    let text: Text = "x".repeat(96).as_str().try_into().unwrap();
    vec![
        LinuxReply::Findings {
            id,
            findings: core::iter::repeat_n(finding, MAX_FINDINGS).collect(),
        },
        LinuxReply::Extents {
            id,
            extents: core::iter::repeat_n(extent, MAX_EXTENTS).collect(),
        },
        LinuxReply::Bytes {
            id,
            bytes: core::iter::repeat_n(0, MAX_BYTES).collect(),
        },
        LinuxReply::Panic {
            file: text.clone(),
            line: u32::MAX,
            message: text,
        },
    ]
}
