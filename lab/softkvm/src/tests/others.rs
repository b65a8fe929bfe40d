//! What others do to a VM, and what is left of it at its end.

use super::*;

fn at(offset: u64, bytes: u64) -> GpaRange {
    GpaRange::with_len(gpa(offset), bytes).unwrap()
}

fn map_gpa(core: &mut SoftKvm<SimMachine>, offset: u64, bytes: u64, to: Side) -> (u64, u64) {
    let half = match to {
        Side::Shared => SHARED_BIT,
        Side::Private => 0,
    };
    let args = [gpa(offset).as_u64() | half, bytes];
    let (_, status, r11) = hypercall(core, vmcall::MAP_GPA, &args);
    (status, r11)
}

/// The guest touches a shared page.
fn touch_shared(core: &mut SoftKvm<SimMachine>, offset: u64) -> Advance {
    let request = Request::Fault {
        gpa: gpa(offset),
        side: Side::Shared,
        write: true,
        rip: 0,
    };
    core.submit(CPU, request, [0; 16]);
    run(core, CPU).0
}

#[test]
fn a_held_page_does_not_become_private_and_the_rest_of_its_chunk_stays() {
    let mut core = core(KvmDesign::V5, Faithful);
    map_gpa(&mut core, 0, 4 * M, Side::Shared);
    assert_eq!(touch_shared(&mut core, 3 * M), Advance::Done);
    let private = HostCall::Pin {
        range: at(5 * M, 4096),
    };
    assert_eq!(call(&mut core, private), libc::EFAULT);
    let range = at(2 * M, 4096);
    assert_eq!(call(&mut core, HostCall::Pin { range }), 0);
    let (status, r11) = map_gpa(&mut core, 0, 4 * M, Side::Private);
    assert_eq!((status, r11), (vmcall::RETRY, gpa(2 * M).as_u64()));
    assert_eq!(pages(&core), (1, 0), "the touched page is mapped still");
    assert_eq!(call(&mut core, HostCall::Unpin { range }), 0);
    let (status, _) = map_gpa(&mut core, 2 * M, 2 * M, Side::Private);
    assert_eq!(status, vmcall::SUCCESS);
    assert_eq!(pages(&core), (0, 0));
}

fn set(offset: u64, len: u64, to: Side) -> HostCall {
    HostCall::SetAttributes { offset, len, to }
}

#[test]
fn a_call_on_the_file_is_made_as_a_whole_or_not_at_all() {
    let mut core = core(KvmDesign::V5, Faithful);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
    assert_eq!(call(&mut core, set(M, M, Side::Private)), 0);
    assert_eq!(pages(&core), (0, 1), "it is private, and stays mapped");
    assert_eq!(call(&mut core, set(M, 3 * M, Side::Shared)), 0);
    assert_eq!(pages(&core), (256, 0), "the leaf was split at its one end");
    assert_eq!(touch_shared(&mut core, M), Advance::Done);
    let range = at(3 * M, 4096);
    assert_eq!(call(&mut core, HostCall::Pin { range }), 0);
    assert_eq!(call(&mut core, set(0, 4 * M, Side::Private)), libc::EAGAIN);
    assert_eq!(core.take_error_at(), Some(gpa(3 * M)));
    assert_eq!(pages(&core), (257, 0), "nothing was unmapped");
    assert_eq!(call(&mut core, set(0, 2 * M, Side::Private)), 0);
    assert_eq!((pages(&core), core.take_error_at()), ((256, 0), None));
}

#[rstest]
#[case::empty(set(0, 0, Side::Shared), libc::EINVAL)]
#[case::off_a_page(set(512, 4096, Side::Shared), libc::EINVAL)]
#[case::part_of_a_page(set(0, 6144, Side::Shared), libc::EINVAL)]
#[case::past_the_end(set(63 * M, 2 * M, Side::Shared), libc::EINVAL)]
#[case::past_all_numbers(set(u64::MAX - 4095, 8192, Side::Shared), libc::EINVAL)]
#[case::the_last_page(set(64 * M - 4096, 4096, Side::Shared), 0)]
fn a_call_on_the_file_has_its_bounds(#[case] made: HostCall, #[case] errno: i32) {
    let mut in_place = core(KvmDesign::V5, Faithful);
    assert_eq!(call(&mut in_place, made), errno);
    let mut stock = core(KvmDesign::Stock, Faithful);
    assert_eq!(call(&mut stock, made), libc::ENOTTY);
}

#[test]
fn a_slot_takes_its_leaves_with_it_and_comes_back_empty() {
    let mut core = core(KvmDesign::V5, Faithful);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
    let range = at(0, 64 * M);
    let populated = core.populated(range);
    assert_eq!(call(&mut core, HostCall::AddSlot { range }), libc::EINVAL);
    assert_eq!(call(&mut core, HostCall::DeleteSlot { range }), 0);
    assert_eq!(
        call(&mut core, HostCall::DeleteSlot { range }),
        libc::EINVAL
    );
    assert_eq!((pages(&core), core.populated(range)), ((0, 0), populated));
    let (status, _) = map_gpa(&mut core, 0, 2 * M, Side::Shared);
    assert_eq!(status, vmcall::INVALID_OPERAND);
    assert_eq!(call(&mut core, HostCall::AddSlot { range }), 0);
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
}

#[test]
fn an_access_without_a_slot_ends_the_vm() {
    let mut core = core(KvmDesign::V5, Faithful);
    let (end, _) = accept(&mut core, 64 * M, PageLevel::Size4K);
    assert_eq!(end, Advance::Dead);
    assert_eq!(core.death().map(|death| death.by), Some(Killer::Vmm));
}

#[test]
fn an_access_that_the_vmm_will_not_convert_ends_the_vm() {
    let mut core = core(KvmDesign::V5, Faithful);
    let refuse = HostCall::Conversions {
        range: at(0, M),
        answer: Answer::Refuse,
    };
    assert_eq!(call(&mut core, refuse), 0);
    assert_eq!(touch_shared(&mut core, 0), Advance::Dead);
}

#[test]
fn a_busy_vmm_puts_each_chunk_off_once() {
    let mut core = core(KvmDesign::V5, Faithful);
    let delay = HostCall::Conversions {
        range: at(0, 64 * M),
        answer: Answer::Delay,
    };
    assert_eq!(call(&mut core, delay), 0);
    let start = gpa(0).as_u64() | SHARED_BIT;
    assert_eq!(
        map_gpa(&mut core, 0, 4 * M, Side::Shared),
        (vmcall::RETRY, start)
    );
    let second = start + 2 * M;
    assert_eq!(
        map_gpa(&mut core, 0, 4 * M, Side::Shared),
        (vmcall::RETRY, second)
    );
    let (status, _) = map_gpa(&mut core, 2 * M, 2 * M, Side::Shared);
    assert_eq!(status, vmcall::SUCCESS);
}

/// Leaves of both sizes, tables, shared pages, a hole, and pages that a device holds.
#[rstest]
#[case::v5(KvmDesign::V5)]
#[case::stock(KvmDesign::Stock)]
fn at_the_end_everything_is_back(#[case] design: KvmDesign) {
    let mut core = core(design, Faithful);
    let level = match design {
        KvmDesign::Stock => PageLevel::Size4K,
        _ => PageLevel::Size2M,
    };
    assert_eq!(accept(&mut core, 0, level), DONE);
    assert_eq!(accept(&mut core, 4 * M, PageLevel::Size4K), DONE);
    map_gpa(&mut core, M, M, Side::Shared);
    assert_eq!(touch_shared(&mut core, M), Advance::Done);
    let pin = HostCall::Pin { range: at(M, M) };
    assert_eq!(call(&mut core, pin), 0);
    assert_eq!(punch(&mut core, 4 * M, 2 * M), 0);
    assert!(core.frames_in_use() > 0);
    core.tear_down();
    assert_eq!((core.frames_in_use(), pages(&core)), (0, (0, 0)));
}
