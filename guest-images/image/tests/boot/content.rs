//! Results of verify on memory that the host has tampered with.

use tdxlab_protocol::addr::PageLevel;
use tdxlab_protocol::message::*;
use tdxlab_protocol::pattern::word;

use crate::host::{Lab, maps_on_fault};
use crate::{generation, page, pages};

const SIDE: Side = Side::Private;

/// A guest with 8 pages filled by generation 5.
fn filled() -> Lab {
    let mut lab = Lab::ready(1, maps_on_fault());
    lab.one(Command::Fill {
        range: pages(0, 8),
        generation: generation(5),
        side: SIDE,
    });
    lab
}

fn verify(lab: &mut Lab, count: u64) -> Vec<Content> {
    let runs = lab
        .one(Command::Verify {
            range: pages(0, count),
            side: SIDE,
        })
        .runs;
    let mut contents = Vec::new();
    for run in runs {
        let Run::Content {
            start,
            count,
            content,
        } = run
        else {
            panic!("{run:?} is no content");
        };
        assert_eq!(start, page(contents.len() as u64), "runs follow each other");
        contents.extend(std::iter::repeat_n(content, count as usize));
    }
    contents
}

#[test]
fn every_kind_of_content_has_its_name() {
    let mut lab = filled();
    let memory = lab.memory.as_mut().unwrap();
    let frame = |memory: &mut crate::host::Memory, number| memory.frame(page(number), SIDE);

    // 1: zero. 2: an older fill. 3: the page of its neighbour. 4: a page from far away.
    let frames: Vec<u64> = (0..8).map(|number| frame(memory, number)).collect();
    for index in 0..512 {
        let at = index as u64 * 8;
        memory.store(frames[1] + at, 0);
        memory.store(frames[2] + at, word(page(2), index, generation(4)));
        memory.store(frames[3] + at, word(page(4), index, generation(5)));
        memory.store(frames[4] + at, word(page(1_000_004), index, generation(7)));
        memory.store(frames[6] + at, 0x5a5a_5a5a_5a5a_5a5a);
    }
    // 5: half of it lost. 7: one word changed.
    for index in 256..512 {
        memory.store(frames[5] + index * 8, 0);
    }
    memory.store(frames[7] + 300 * 8, 42);

    let foreign = |number, distance| Content::Foreign {
        generation: generation(number),
        distance,
    };
    let torn = |like_first, words: &[(u16, u64)]| Content::Torn {
        like_first,
        words: words.iter().copied().collect(),
    };
    let first = |number| word(page(number), 0, generation(5));
    assert_eq!(
        verify(&mut lab, 8),
        [
            Content::Own(generation(5)),
            Content::Zero,
            Content::Own(generation(4)),
            foreign(5, -1),
            foreign(7, -1_000_000),
            torn(256, &[(0, first(5)), (256, 0), (257, 0), (258, 0)]),
            torn(512, &[(0, 0x5a5a_5a5a_5a5a_5a5a)]),
            torn(511, &[(0, first(7)), (300, 42)]),
        ]
    );
}

#[test]
fn a_page_mapped_to_the_wrong_frame_shows_whose_it_is() {
    let mut lab = filled();
    let memory = lab.memory.as_mut().unwrap();
    let frame = memory.frame(page(6), SIDE);
    memory.unmap(page(1), SIDE);
    memory.map(page(1), SIDE, frame);
    memory.kick(1);
    let contents = verify(&mut lab, 8);
    let foreign = Content::Foreign {
        generation: generation(5),
        distance: -5,
    };
    assert_eq!(contents[1], foreign);
}

#[test]
fn a_page_that_was_taken_away_faults_again_and_is_new() {
    let mut lab = filled();
    let memory = lab.memory.as_mut().unwrap();
    for number in [2, 3] {
        memory.unmap(page(number), SIDE);
    }
    memory.kick(1);
    let outcome = lab.one(Command::Verify {
        range: pages(0, 8),
        side: SIDE,
    });
    assert_eq!(outcome.counts.faults, 2);
    let own = Content::Own(generation(5));
    let run = |first, count, content| Run::Content {
        start: page(first),
        count,
        content,
    };
    assert_eq!(
        outcome.runs,
        [
            run(0, 2, own.clone()),
            run(2, 2, Content::Zero),
            run(4, 4, own)
        ]
    );
    let touch = Command::Touch {
        range: pages(0, 8),
        stride: PageLevel::Size4K,
        access: AccessKind::Write,
        side: SIDE,
        on_ve: OnVe::Skip,
        same_rip: false,
    };
    assert_eq!(lab.one(touch).counts.faults, 0);
    assert_eq!(
        verify(&mut lab, 8)[2],
        Content::Zero,
        "touching writes nothing"
    );
}
