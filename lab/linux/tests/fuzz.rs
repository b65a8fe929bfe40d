//! Arbitrary replies in any order: no panic, every answer bounded and consistent.

use proptest::collection::vec;
use proptest::prelude::*;
use tdxlab_linux::answer::{Collector, Known};
use tdxlab_protocol::addr::Gpa;
use tdxlab_protocol::linux::*;
use tdxlab_protocol::message::Content;
use tdxlab_protocol::pattern::Generation;

const PAGES: u32 = 16;

/// Bound on the bytes of a file.
const MOST: u32 = 64;

fn buffer() -> BufferId {
    BufferId::new(0).unwrap()
}

fn ask() -> impl Strategy<Value = Ask> {
    let generation = Generation::new(1).unwrap();
    prop_oneof![
        Just(Ask::Fill {
            buffer: buffer(),
            bytes: u64::from(PAGES) << 12,
            pages: Pages::Small,
            generation
        }),
        Just(Ask::Where { buffer: buffer() }),
        Just(Ask::Verify { buffer: buffer() }),
        Just(Ask::Read(Witness::MemInfo)),
        Just(Ask::ReadFile {
            path: "/etc/os-release".try_into().unwrap(),
            most: MOST
        }),
        Just(Ask::Load(Load::Touch {
            bytes: 1 << 20,
            processes: 2
        })),
        Just(Ask::Hello),
    ]
}

fn gpa() -> impl Strategy<Value = Gpa> {
    prop_oneof![
        (0..64_u64).prop_map(Gpa::from_gfn),
        any::<u64>().prop_map(Gpa::new)
    ]
}

/// Replies close enough to valid ones that some pass.
fn reply() -> impl Strategy<Value = LinuxReply> {
    let small = 0..=PAGES + 1;
    let content = prop_oneof![
        Just(Content::Zero),
        Just(Content::NotAccepted),
        any::<i64>().prop_map(|distance| Content::Foreign {
            generation: Generation::MAX,
            distance
        }),
        (any::<u16>(), vec((0..600_u16, any::<u64>()), 0..4)).prop_map(|(like_first, words)| {
            Content::Torn {
                like_first,
                words: words.into_iter().collect(),
            }
        }),
    ];
    let finding = (small.clone(), small.clone(), gpa(), gpa(), content).prop_map(
        |(page, count, at, filled_at, content)| Finding {
            page,
            count,
            at,
            filled_at,
            content,
        },
    );
    let extent = (gpa(), small.clone()).prop_map(|(start, pages)| Extent { start, pages });
    let outcome = prop_oneof![
        Just(Outcome::Done),
        Just(Outcome::Filled {
            bytes: u64::from(PAGES) << 12,
            huge: 0
        }),
        small.prop_map(|wrong| Outcome::Verified {
            bytes: u64::from(PAGES) << 12,
            wrong,
            moved: 0
        }),
        (0..80_u64, any::<bool>()).prop_map(|(bytes, cut)| Outcome::Read { bytes, cut }),
        (0..1_u64 << 22, 0..4_u16).prop_map(|(bytes, failed)| Outcome::Loaded { bytes, failed }),
    ];
    let id = prop_oneof![9 => Just(7_u32), 1 => any::<u32>()];
    (
        id,
        vec(extent, 0..3),
        vec(finding, 0..3),
        vec(any::<u8>(), 0..40),
        outcome,
        0..7_u8,
    )
        .prop_map(
            |(id, extents, findings, bytes, outcome, which)| match which {
                0 | 1 => LinuxReply::Extents {
                    id,
                    extents: extents.into_iter().collect(),
                },
                2 | 3 => LinuxReply::Findings {
                    id,
                    findings: findings.into_iter().collect(),
                },
                4 => LinuxReply::Bytes {
                    id,
                    bytes: bytes.into_iter().collect(),
                },
                5 => LinuxReply::Progress { id, bytes: 1 },
                _ => LinuxReply::Done { id, outcome },
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_taken_is_bounded_and_whole(ask in ask(), replies in vec(reply(), 0..12)) {
        let known = Known {
            limit: Gpa::new(1 << 20),
            pages: Some(PAGES),
            generation: Generation::new(1),
        };
        let mut collector = Collector::new(7, ask.clone(), known);
        for reply in replies {
            if collector.take(reply).is_err() {
                return Ok(());
            }
        }
        let Some(answer) = collector.into_answer() else { return Ok(()) };
        let under: u32 = answer.extents.iter().map(|extent| extent.pages).sum();
        let wrong: u32 = answer.findings.iter().map(|finding| finding.count).sum();
        prop_assert!(answer.findings.iter().all(|finding| finding.page + finding.count <= PAGES));
        match (ask, answer.outcome.unwrap()) {
            (Ask::Fill { .. }, Outcome::Filled { .. }) | (Ask::Where { .. }, Outcome::Done) => {
                prop_assert_eq!(under, PAGES);
            }
            (Ask::Verify { .. }, Outcome::Verified { wrong: said, .. }) => {
                prop_assert_eq!(said, wrong);
            }
            (Ask::ReadFile { .. }, Outcome::Read { bytes, cut }) => {
                prop_assert_eq!(bytes, answer.bytes.len() as u64);
                prop_assert!(bytes <= u64::from(MOST) && (!cut || bytes == u64::from(MOST)));
            }
            (Ask::Read(_), Outcome::Read { bytes, .. }) => {
                prop_assert_eq!(bytes, answer.bytes.len() as u64);
            }
            (Ask::Load(_), Outcome::Loaded { .. }) => prop_assert_eq!(under + wrong, 0),
            (ask, outcome) => prop_assert!(false, "{:?} ended with {:?}", ask, outcome),
        }
    }
}
