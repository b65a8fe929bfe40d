//! Exhausted memory, busy calls, and wrong decisions.

use super::*;

#[test]
fn a_hole_whose_split_finds_no_memory_zaps_nothing() {
    let mut core = core(KvmDesign::HeadTail, NoMemory(Allocation::SplitTable, 1));
    for region in 0..4 {
        accept(&mut core, region * 2 * M, PageLevel::Size2M);
    }
    let frames = core.frames_used();
    assert_eq!(punch(&mut core, M, 6 * M), libc::ENOMEM);
    assert_eq!(
        pages(&core),
        (512, 3),
        "the head was split before the tail could not be, and stays split"
    );
    // A table, and the pages for the metadata of the 512 leaves.
    assert_eq!(core.frames_used(), frames + 1 + 2);
    let trace = core.take_trace();
    let ends: Vec<_> = trace
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(ends, ["0", "-12"], "{trace}");
    assert_eq!(punch(&mut core, M, 6 * M), 0, "and can be tried again");
    assert_eq!(pages(&core), (512, 0));
}

#[test]
fn a_conversion_whose_split_finds_no_memory_changes_nothing() {
    let mut core = core(KvmDesign::V3, NoMemory(Allocation::SplitTable, 0));
    accept(&mut core, 0, PageLevel::Size2M);
    let start = gpa(M).as_u64() | SHARED_BIT;
    let (_, status, r11) = hypercall(&mut core, vmcall::MAP_GPA, &[start, 4096]);
    assert_eq!((status, r11), (vmcall::INVALID_OPERAND, start));
    assert_eq!(pages(&core), (0, 1));
    assert!(core.death().is_none());
}

#[rstest]
fn a_table_that_cannot_be_had_ends_kvm_run(#[values(0, 1, 2)] which: u32) {
    let mut core = core(KvmDesign::V5, NoMemory(Allocation::SeptTable, which));
    let (end, _) = accept(&mut core, 0, PageLevel::Size4K);
    assert_eq!(end, Advance::Dead);
    let death = core.death().unwrap();
    assert_eq!(death.by, Killer::Vmm);
    assert!(death.text.contains("Cannot allocate memory"), "{death:?}");
}

/// Answers one SEAMCALL with BUSY, so many times.
struct Busy(Seamcall, u32);

impl Policy for Busy {
    fn seamcall(&mut self, call: Seamcall) -> Option<Status> {
        if call != self.0 || self.1 == 0 {
            return None;
        }
        self.1 -= 1;
        Some(Status::OPERAND_BUSY.rcx())
    }
}

#[rstest]
#[case(Seamcall::RangeBlock)]
#[case(Seamcall::Track)]
#[case(Seamcall::PageRemove)]
fn a_busy_seamcall_is_made_once_more_and_must_then_succeed(#[case] busy: Seamcall) {
    let mut once = core(KvmDesign::V5, Busy(busy, 1));
    accept(&mut once, 0, PageLevel::Size2M);
    assert_eq!(punch(&mut once, 0, 2 * M), 0);
    assert!(once.death().is_none());
    assert_eq!(pages(&once), (0, 0));

    let mut twice = core(KvmDesign::V5, Busy(busy, 2));
    accept(&mut twice, 0, PageLevel::Size2M);
    punch(&mut twice, 0, 2 * M);
    let death = twice.death().unwrap();
    assert_eq!(death.by, Killer::KvmBug);
    let log = twice.take_log();
    assert_eq!(log[0], death.text);
    assert!(
        log[0].ends_with(&format!("{} failed: 0x8000020000000001", busy.name())),
        "{log:?}"
    );
    assert!(log[1].starts_with("WARNING: CPU: "), "{log:?}");
    assert_eq!(
        accept(&mut twice, 0, PageLevel::Size2M).0,
        Advance::Dead,
        "a bugged VM does nothing any more"
    );
}

/// A TDH.VP.ENTER that is busy so many times; whether KVM enters again.
struct BusyEntry(u32, bool);

impl Policy for BusyEntry {
    fn entry_is_busy(&mut self) -> bool {
        let busy = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        busy
    }
    fn enters_again(&mut self) -> bool {
        self.1
    }
}

#[test]
fn a_busy_entry_is_tried_again_until_the_tree_is_free() {
    let mut again = core(KvmDesign::V5, BusyEntry(7, true));
    assert_eq!(accept(&mut again, 0, PageLevel::Size2M), DONE);
    assert_eq!(again.exits().accept, 1, "the guest did not run meanwhile");
    let mut unknown = core(KvmDesign::V5, BusyEntry(1, false));
    assert_eq!(accept(&mut unknown, 0, PageLevel::Size2M).0, Advance::Dead);
    assert!(
        unknown
            .death()
            .unwrap()
            .text
            .starts_with("KVM internal error")
    );
}

#[rstest]
#[case(Seamcall::PageAug)]
#[case(Seamcall::SeptAdd)]
fn a_busy_map_is_tried_again(#[case] busy: Seamcall) {
    let mut core = core(KvmDesign::V5, Busy(busy, 7));
    let before = core.frames_used();
    assert_eq!(accept(&mut core, 0, PageLevel::Size2M), DONE);
    // A leaf, two tables, and the pages for the metadata of the range in which the tables lie.
    assert_eq!(
        core.frames_used(),
        before + 512 + 2 + 2,
        "no table was lost"
    );
    assert_eq!(core.exits().accept, 1, "KVM retries without the guest");
}

#[test]
fn a_zap_without_a_kick_is_noticed_by_the_module() {
    struct NoKick;
    impl Policy for NoKick {
        fn kick(&mut self, _: Why) -> Kick {
            Kick::Skip
        }
    }
    let mut core = core(KvmDesign::V5, NoKick);
    accept(&mut core, 0, PageLevel::Size2M);
    punch(&mut core, 0, 2 * M);
    let death = core.death().unwrap();
    assert!(
        death
            .text
            .contains("TDH_MEM_PAGE_REMOVE failed: 0xc0000b08"),
        "{death:?}"
    );
}

#[test]
fn a_remove_without_a_block_is_a_kvm_bug() {
    struct NoBlock;
    impl Policy for NoBlock {
        fn blocks(&mut self, _: Why) -> bool {
            false
        }
    }
    let mut core = core(KvmDesign::V5, NoBlock);
    accept(&mut core, 0, PageLevel::Size2M);
    punch(&mut core, 0, 2 * M);
    assert_eq!(
        core.death().unwrap().text,
        "kvm_intel: SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0xc0000b0600000001"
    );
}

#[test]
fn a_split_for_the_wrong_root_never_comes_to_an_end() {
    struct WrongRoot;
    impl Policy for WrongRoot {
        fn accept_split_root(&mut self) -> Side {
            Side::Shared
        }
    }
    let mut core = core(KvmDesign::V5, WrongRoot);
    let range = GpaRange::with_len(gpa(0), 2 * M).unwrap();
    assert_eq!(call(&mut core, HostCall::Prefault { range }), 0);
    assert_eq!(
        accept(&mut core, 0, PageLevel::Size4K).0,
        Advance::Dead,
        "exit, resume, exit, ..."
    );
    let death = core.death().unwrap();
    assert_eq!(death.by, Killer::ExitsForEver);
    assert!(core.exits().accept >= 1000);
}

#[test]
fn a_split_after_the_zap_comes_too_late() {
    struct Late;
    impl Policy for Late {
        fn hole_stages(&mut self) -> &'static [HoleStage] {
            &[
                HoleStage::InvalidateBegin,
                HoleStage::Zap,
                HoleStage::Split,
                HoleStage::Truncate,
                HoleStage::InvalidateEnd,
            ]
        }
        fn conversion_stages(&mut self) -> &'static [ConversionStage] {
            &[
                ConversionStage::Zap,
                ConversionStage::Split,
                ConversionStage::SetAttributes,
            ]
        }
    }
    let mut core = core(KvmDesign::HeadTail, Late);
    accept(&mut core, 0, PageLevel::Size2M);
    assert_eq!(punch(&mut core, 0, 4096), 0);
    assert_eq!(pages(&core), (0, 0), "the whole leaf went");
    assert_eq!(core.take_trace(), "");
}

#[test]
fn errors_can_be_lost_on_the_way() {
    struct Lost;
    impl Policy for Lost {
        fn allocates(&mut self, what: Allocation) -> bool {
            what != Allocation::SplitTable
        }
        fn split_result(&mut self, _: Why, _: Result<(), Failure>) -> Result<(), Failure> {
            Ok(())
        }
    }
    let mut core = core(KvmDesign::HeadTail, Lost);
    accept(&mut core, 0, PageLevel::Size2M);
    assert_eq!(punch(&mut core, 0, 4096), 0);
    assert_eq!(
        pages(&core),
        (0, 0),
        "zapped although it could not be split"
    );
}
