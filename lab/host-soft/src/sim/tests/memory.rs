//! Content, slots, images, and exhausted machine memory.

use tdxlab_protocol::message::Content;

use super::*;

fn content(start: u64, end: u64, content: Content) -> Run {
    Run::Content {
        start: gpa(start),
        count: ((end - start) >> 12) as u32,
        content,
    }
}

fn own(generation: u16) -> Content {
    Content::Own(Generation::new(generation).unwrap())
}

#[test]
fn accepted_memory_is_zero_and_filled_memory_keeps_its_words() {
    for design in ["stock", "v3", "v5", "headtail"] {
        let mut bench = Bench::new(design).given(accept(0, 4 * M, Size::Linux));
        assert_eq!(bench.verify(0, 4 * M), [content(0, 4 * M, Content::Zero)]);
        bench.perform(&fill(M, 3 * M, 1));
        bench.perform(&fill(2 * M, 3 * M, 2));
        assert_eq!(
            bench.verify(0, 4 * M),
            [
                content(0, M, Content::Zero),
                content(M, 2 * M, own(1)),
                content(2 * M, 3 * M, own(2)),
                content(3 * M, 4 * M, Content::Zero)
            ],
            "{design}"
        );
    }
}

#[test]
fn a_page_that_comes_back_is_zero() {
    for design in ["stock", "v3", "v5", "headtail"] {
        let mut bench = Bench::new(design)
            .given(accept(0, 2 * M, Size::Linux))
            .given(fill(0, 2 * M, 5))
            .given(convert(0, 2 * M, Side::Shared))
            .given(convert(0, 2 * M, Side::Private))
            .given(accept(0, 2 * M, Size::Linux));
        assert_eq!(
            bench.verify(0, 2 * M),
            [content(0, 2 * M, Content::Zero)],
            "{design}"
        );
    }
}

#[test]
fn shared_memory_never_shows_what_was_private() {
    for design in ["stock", "v3", "v5", "headtail"] {
        let mut bench = Bench::new(design)
            .given(accept(0, 2 * M, Size::Linux))
            .given(fill(0, 2 * M, 5))
            .given(convert(0, M, Side::Shared));
        assert_eq!(
            bench.verify_side(0, M, Side::Shared),
            [content(0, M, Content::Zero)],
            "{design}"
        );
        assert_eq!(bench.verify(M, 2 * M), [content(M, 2 * M, own(5))]);
    }
}

#[test]
fn image_pages_are_there_from_the_start() {
    let image = Guest {
        image: vec![range(2 * M, 2 * M + 64 * K)],
        ..guest(64 * M)
    };
    for (design, populated) in [("stock", 16), ("v3", 512), ("v5", 512), ("headtail", 512)] {
        let mut bench = Bench::with(&image, design);
        let counters = *bench.before.debugfs.value().unwrap();
        assert_eq!((counters.pages_4k, counters.pages_2m), (16, 0), "{design}");
        assert_eq!(bench.before.populated.value(), Some(&populated));
        let (observed, _) = bench.observe(&accept(2 * M, 2 * M + 64 * K, Size::Size4K));
        assert_eq!(statuses(&observed), [(16, 0x0000_0b0a_0000_0000)]);
        assert_eq!(
            bench.verify(2 * M, 2 * M + 64 * K),
            [content(2 * M, 2 * M + 64 * K, Content::Zero)]
        );
        let (observed, _) = bench.observe(&accept(2 * M, 4 * M, Size::Size2M));
        assert_eq!(
            statuses(&observed),
            [(1, 0xc000_0b0b_0000_0001)],
            "the region keeps its table"
        );
    }
}

#[test]
fn the_control_page_counts_but_populates_nothing() {
    let mut bench = Bench::new("v5");
    let op = Op::Accept {
        range: tdxlab_plan::CONTROL_PAGE.page(PageLevel::Size4K),
        size: Size::Size4K,
        vcpu: VcpuId(0),
    };
    let (_, change) = bench.observe(&op);
    assert_eq!((change.pages_4k, change.populated, change.exits), (1, 0, 1));
}

/// Two slots over 8M whose file offsets are exchanged, the second one off by half a leaf.
fn incongruent() -> Guest {
    let slot = |start, end, gmem_offset| Slot {
        range: range(start, end),
        gmem_offset,
    };
    Guest {
        slots: vec![
            slot(0, 4 * M, 8 * M),
            slot(4 * M, 8 * M, M),
            slot(8 * M, 64 * M, 16 * M),
        ],
        ..guest(64 * M)
    }
}

#[test]
fn a_slot_off_the_files_alignment_gets_small_pages() {
    let mut bench = Bench::with(&incongruent(), "headtail");
    let (observed, change) = bench.observe(&accept(2 * M, 6 * M, Size::Size2M));
    assert_eq!(
        statuses(&observed),
        [(1, 0), (1, 0xc000_0b0b_0000_0001)],
        "the second region lies in the slot that is off by 1M"
    );
    assert_eq!((change.pages_2m, change.pages_4k), (1, 1));
}

#[test]
fn a_hole_follows_the_file_through_the_slots() {
    let mut bench = Bench::with(&incongruent(), "headtail")
        .given(accept(0, 4 * M, Size::Size2M))
        .given(accept(4 * M, 8 * M, Size::Size4K))
        .given(fill(0, 8 * M, 3));
    let (observed, change) = bench.observe(&punch(3 * M, 5 * M));
    assert_eq!(observed.errno, Some(0));
    assert_eq!(
        (change.splits, change.pages_2m, change.pages_4k),
        (1, -1, 512 - 256 - 256)
    );
    assert_eq!(
        bench.verify(0, 8 * M),
        [
            content(0, 3 * M, own(3)),
            content(3 * M, 5 * M, Content::NotAccepted),
            content(5 * M, 8 * M, own(3))
        ]
    );
}

#[test]
fn a_region_cut_by_a_slot_boundary_gets_small_pages() {
    let slot = |start, end| Slot {
        range: range(start, end),
        gmem_offset: start,
    };
    let cut = Guest {
        slots: vec![slot(0, 3 * M), slot(3 * M, 64 * M)],
        ..guest(64 * M)
    };
    let mut bench = Bench::with(&cut, "v5");
    let (observed, change) = bench.observe(&accept(0, 6 * M, Size::Size2M));
    assert_eq!(
        statuses(&observed),
        [(1, 0), (1, 0xc000_0b0b_0000_0001), (1, 0)]
    );
    assert_eq!((change.pages_2m, change.pages_4k), (2, 1));
}

#[test]
fn a_folio_that_a_hole_broke_stays_in_pieces_until_it_is_all_gone() {
    let mut bench = Bench::new("headtail")
        .given(accept(0, 2 * M, Size::Size2M))
        .given(punch(0, 4 * K));
    let (_, change) = bench.observe(&accept(0, 4 * K, Size::Size4K));
    assert_eq!((change.populated, change.pages_4k), (1, 1));
    bench.perform(&punch(0, 2 * M));
    bench.change();
    let op = Op::Allocate {
        range: range(0, 4 * K),
    };
    let (observed, change) = bench.observe(&op);
    assert_eq!((observed.errno, change.populated), (Some(0), 512));
}

#[test]
fn allocating_past_the_end_is_refused() {
    let mut bench = Bench::new("v5");
    let op = Op::Allocate {
        range: range(62 * M, 66 * M),
    };
    let (observed, change) = bench.observe(&op);
    assert_eq!(
        (observed.errno, change),
        (Some(libc::EINVAL), Change::default())
    );
}

#[test]
fn exhausted_memory_ends_in_enomem_and_loses_nothing() {
    let host = SimHost::in_memory().with_machine_bytes(8 * M);
    let mut bench = Bench::on(&host, &guest(64 * M), "v5");
    let op = Op::Allocate {
        range: range(0, 32 * M),
    };
    let (observed, change) = bench.observe(&op);
    assert_eq!(observed.errno, Some(libc::ENOMEM));
    assert_eq!(change.populated, 4 * 512, "what could be had was");
    let (observed, change) = bench.observe(&prefault(0, 2 * M));
    assert_eq!(observed.errno, Some(libc::ENOMEM), "no frame for a table");
    assert_eq!(change, Change::default());
    let (observed, change) = bench.observe(&punch(0, 64 * M));
    assert_eq!((observed.errno, change.populated), (Some(0), -4 * 512));
    let (observed, _) = bench.observe(&accept(0, 2 * M, Size::Size2M));
    assert_eq!(statuses(&observed), [(1, 0)]);
}

#[test]
fn a_guest_that_runs_out_of_memory_stops_with_the_vmms_word_for_it() {
    let host = SimHost::in_memory().with_machine_bytes(4 * M);
    let mut bench = Bench::on(&host, &guest(64 * M), "v5");
    let (observed, _) = bench.observe(&accept(0, 8 * M, Size::Size2M));
    let death = observed.death.as_ref().expect("death");
    assert_eq!(death.by, tdxlab_journal::Killer::Vmm);
    assert!(death.text.contains("Cannot allocate memory"), "{death:?}");
    assert_eq!(
        statuses(&observed),
        [(1, 0)],
        "one leaf and its tables fitted"
    );
}

#[test]
fn a_hole_takes_private_and_shared_pages_batch_by_batch() {
    for design in ["v3", "v5", "headtail"] {
        let mut bench = Bench::new(design)
            .given(accept(0, 2 * M, Size::Size4K))
            .given(convert(512 * K, 768 * K, Side::Shared))
            .given(touch(512 * K, 768 * K, Side::Shared, OnVe::Skip));
        let (observed, change) = bench.observe(&punch(0, 2 * M));
        assert_eq!(
            (change.pages_4k, change.populated),
            (-512, -512),
            "{design}"
        );
        assert_eq!(observed.leaves_zapped, Some(512));
        assert_eq!(
            bench.verify_side(512 * K, 516 * K, Side::Shared),
            [content(512 * K, 516 * K, Content::Zero)],
            "a fresh page"
        );
    }
}

#[test]
fn a_folio_does_not_count_where_no_slot_uses_it() {
    let slot = |start, end, gmem_offset| Slot {
        range: range(start, end),
        gmem_offset,
    };
    let cut = Guest {
        slots: vec![slot(0, 5 * M, 0), slot(5 * M, 16 * M, 9 * M)],
        ..guest(16 * M)
    };
    let mut bench = Bench::with(&cut, "v5");
    let (_, change) = bench.observe(&accept(4 * M, 4 * M + 4 * K, Size::Size4K));
    assert_eq!(change.populated, 256);
}

#[test]
fn sixteen_tebibytes_take_room_only_where_they_are_used() {
    const T: u64 = 1 << 40;
    let memory = GpaRange::with_len(tdxlab_plan::HIGH_BASE, 16 * T).unwrap();
    let at = |offset: u64, bytes: u64| {
        GpaRange::with_len(memory.start().checked_add(offset).unwrap(), bytes).unwrap()
    };
    let large = Guest {
        memory,
        slots: vec![Slot {
            range: memory,
            gmem_offset: 0,
        }],
        ..guest(M)
    };
    for (design, looked_at_most) in [("v3", u64::MAX), ("v5", 2), ("headtail", 2)] {
        let mut bench = Bench::with(&large, design);
        for step in 0..16 {
            let op = Op::Accept {
                range: at(step * T + 2 * M, 2 * M),
                size: Size::Size2M,
                vcpu: VcpuId(0),
            };
            bench.perform(&op);
        }
        bench.change();
        let op = Op::Punch {
            range: at(2 * T, 12 * T),
        };
        let (observed, change) = bench.observe(&op);
        assert_eq!(change.pages_2m, -12, "{design}");
        let looked = observed.entries_looked_at.unwrap();
        assert!(looked <= looked_at_most, "{design} looked at {looked}");
        if design == "v3" {
            assert!(looked > 12 * 512, "v3 walks: {looked}");
        }
    }
}

/// No machine is too small for its guest.
#[test]
fn a_large_guest_has_all_its_memory() {
    const T: u64 = 1 << 40;
    let mut bench = Bench::on(&SimHost::in_memory(), &guest(T), "headtail");
    let (observed, change) = bench.observe(&accept(0, T, Size::Size2M));
    assert!(observed.death.is_none(), "{:?}", observed.death);
    assert_eq!(change.pages_2m, (T >> 21) as i64);
}
