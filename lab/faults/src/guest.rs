//! Results reported to the guest, and the content it finds.

use std::ops::Range;

use tdxlab_protocol::addr::{Gpa, GpaRange, PageLevel};
use tdxlab_protocol::tdcall::vmcall;
use tdxlab_softkvm::policy::PendingAccess;
use tdxlab_softkvm::{Level, Pfn, SeptEntry, State, Status};

use super::faults;

faults! {
    "accept-does-not-zero": "ACCEPT leaves the old content of the memory"
    ("TDG.MEM.PAGE.ACCEPT zeroes the page", rows 44, under "headtail", seen by Content)
    AcceptKeeps {} {
        fn accept_zeroes(&mut self, _: PageLevel, pages: Range<u64>) -> Range<u64> {
            pages.start..pages.start
        }
    }

    "accept-zeroes-first-page": "ACCEPT 2M zeroes only the first page of the leaf"
    ("TDG.MEM.PAGE.ACCEPT zeroes all 512 pages of a leaf", rows 44, under "headtail",
     seen by Content)
    AcceptZeroesFirst {} {
        fn accept_zeroes(&mut self, _: PageLevel, pages: Range<u64>) -> Range<u64> {
            pages.start..pages.end.min(1)
        }
    }

    "interrupted-accept-skips-pages": "an ACCEPT that was interrupted zeroes no more pages when it goes on"
    ("TDG.MEM.PAGE.ACCEPT keeps its progress in the entry", rows 44, under "headtail", seen by Content)
    InterruptedAccept {} {
        fn accept_burst(&mut self) -> u64 {
            100
        }
        fn accept_zeroes(&mut self, _: PageLevel, pages: Range<u64>) -> Range<u64> {
            if pages.start == 0 { pages } else { pages.start..pages.start }
        }
    }

    "accept-busy": "an ACCEPT is refused as busy though nobody else is at the page"
    ("TDX_OPERAND_BUSY from TDCALLs, RFC v5 thread", rows 30, under "v5", seen by Status)
    AcceptBusy { accepts: u64 } {
        fn accept_refused(&mut self, _: Gpa, _: PageLevel) -> Option<Status> {
            // The positive control is let through.
            self.accepts += 1;
            (self.accepts == 4).then_some(Status::OPERAND_BUSY.rcx())
        }
    }

    "accept-stays-pending": "ACCEPT says success and leaves the page pending"
    ("TDG.MEM.PAGE.ACCEPT sets the entry to MAPPED", under "v5", seen by Content Status)
    AcceptStaysPending {} {
        fn accepted_entry(&mut self, level: PageLevel, frame: Pfn) -> SeptEntry {
            SeptEntry::leaf(State::Pending, level, frame)
        }
    }

    "already-accepted-level": "PAGE_ALREADY_ACCEPTED names the wrong level"
    ("TDX_PAGE_ALREADY_ACCEPTED carries the level", rows 45, under "v5", seen by Status)
    AlreadyLevel {} {
        fn accept_status(&mut self, _: PageLevel, status: Status) -> Status {
            if status.class() == Status::PAGE_ALREADY_ACCEPTED {
                status.detail((status.0 & 1) ^ 1)
            } else {
                status
            }
        }
    }

    "mismatch-level": "PAGE_SIZE_MISMATCH names level 0"
    ("TDX_PAGE_SIZE_MISMATCH carries the level", rows 45, under "v5", seen by Status)
    MismatchLevel {} {
        fn accept_status(&mut self, _: PageLevel, status: Status) -> Status {
            if status.class() == Status::PAGE_SIZE_MISMATCH {
                status.class()
            } else {
                status
            }
        }
    }

    "already-accepted-is-success": "accepting twice is reported as success"
    ("double accept lets a host replay a page, TDG.MEM.PAGE.ACCEPT", rows 45, under "v5",
     seen by Status)
    AlreadyIsSuccess {} {
        fn accept_status(&mut self, _: PageLevel, status: Status) -> Status {
            if status.class() == Status::PAGE_ALREADY_ACCEPTED {
                Status::SUCCESS
            } else {
                status
            }
        }
    }

    "accept-4k-invalid": "ACCEPT of a 4K page is refused as an invalid operand"
    ("operand check of TDG.MEM.PAGE.ACCEPT", rows 45, under "v5", seen by Status)
    Accept4KInvalid {} {
        fn accept_refused(&mut self, _: Gpa, level: PageLevel) -> Option<Status> {
            (level == PageLevel::Size4K).then_some(Status::OPERAND_INVALID.rcx())
        }
    }

    "pending-is-readable": "memory that was never accepted can be read and written"
    ("td_ept_violation.c of the module: a PENDING page is not accessible", rows 44, under "v5",
     seen by Access Exits)
    PendingReadable {} {
        fn pending_access(&mut self, _: bool) -> PendingAccess {
            PendingAccess::Allow
        }
    }

    "ve-in-spite-of-disable": "#VE is raised though SEPT_VE_DISABLE is set"
    ("attribute SEPT_VE_DISABLE, on which a Linux guest relies", under "v5", seen by Td)
    VeInSpite {} {
        fn pending_access(&mut self, _: bool) -> PendingAccess {
            PendingAccess::Ve
        }
    }

    "killed-in-spite-of-ve": "an access before ACCEPT ends the VM though the guest handles #VE"
    ("td_ept_violation.c of the module: pending_ve_disable", under "v5", seen by Td)
    KilledInSpite {} {
        fn pending_access(&mut self, _: bool) -> PendingAccess {
            PendingAccess::Exit
        }
    }

    "ve-address-off": "the information of a #VE names the page after the one touched"
    ("TDG.VP.VEINFO.GET names the guest-physical address", under "v5", seen by Access)
    VeAddressOff {} {
        fn ve_address(&mut self, gpa: Gpa) -> Gpa {
            gpa.page(PageLevel::Size4K).end()
        }
    }

    "survives-access-before-accept": "an access before ACCEPT with SEPT_VE_DISABLE does not end the VM"
    ("tdx_handle_ept_violation() ends the VM", under "v5", seen by Td)
    SurvivesAccess {} {
        fn kills_on_pending_access(&mut self) -> bool {
            false
        }
    }

    "probe-hides-pending": "ATTR.RD says accepted of a pending page"
    ("TDG.MEM.PAGE.ATTR.RD", under "v5", seen by Probe)
    ProbeHidesPending {} {
        fn attributes_read(&mut self, level: Level, _: bool) -> (Level, bool) {
            (level, false)
        }
    }

    "probe-level": "ATTR.RD names 4K for a page of 2M"
    ("TDG.MEM.PAGE.ATTR.RD", under "v5", seen by Probe)
    ProbeLevel {} {
        fn attributes_read(&mut self, _: Level, pending: bool) -> (Level, bool) {
            (Level::Pte, pending)
        }
    }

    "map-gpa-retry-lost": "a MapGPA that an interrupt stops reports success, and the rest stays as it was"
    ("tdx_map_gpa() stops with RETRY between two chunks", under "v5", seen by Debugfs)
    MapGpaRetryLost {} {
        fn map_gpa_interrupted(&mut self, _: Gpa, _: bool) -> bool {
            true
        }
        fn map_gpa_status(&mut self, _: u64) -> u64 {
            vmcall::SUCCESS
        }
    }

    "map-gpa-past-memory": "a MapGPA that leaves memory reports success"
    ("KVM_HC_MAP_GPA_RANGE for addresses without a slot, GHCI 3.2", under "headtail", seen by MapGpa)
    MapGpaPastMemory {} {
        fn vmm_refuses(&mut self, covered: bool) -> bool {
            covered
        }
    }

    "map-gpa-rounds": "a MapGPA of parts of pages is rounded down and done, where ALIGN_ERROR is due"
    ("tdx_map_gpa(): PAGE_ALIGNED() of both operands", under "v5", seen by MapGpa)
    MapGpaRounds {} {
        fn map_gpa_is_aligned(&mut self, _: bool) -> bool {
            true
        }
    }

    "refusal-not-passed-on": "the VMM refuses a conversion, and the guest is told that it was done"
    ("vcpu->run->hypercall.ret not looked at, tdx_complete_vmcall_map_gpa()", under "v5", seen by MapGpa)
    RefusalNotPassedOn {} {
        fn vmm_refuses(&mut self, covered: bool) -> bool {
            !covered
        }
    }

    "busy-taken-for-done": "the VMM is busy, and the guest is told that the chunk and all after it are converted"
    ("userspace errors of MapGPA mapped to statuses, v2 review", under "v5", seen by Debugfs Splits)
    BusyTakenForDone {} {
        fn map_gpa_status(&mut self, status: u64) -> u64 {
            if status == vmcall::RETRY { vmcall::SUCCESS } else { status }
        }
    }

    "held-page-converted": "a page that a device holds becomes private: DMA meets private memory"
    ("kvm_gmem_is_safe_for_conversion() left out", rows 38, under "v5", seen by MapGpa)
    HeldPageConverted {} {
        fn heeds_references(&mut self, _: GpaRange) -> bool {
            false
        }
    }

    "eagain-after-zap": "a conversion that ends in EAGAIN for a held page has unmapped the others before"
    ("references looked at after the point of no return, in-place conversion review", rows 38,
     under "v5", seen by Debugfs)
    EagainAfterZap {} {
        fn looks_for_references_first(&mut self) -> bool {
            false
        }
    }

    "error-offset-of-the-call": "an ioctl that is refused for a held page says that it stopped at its start"
    ("error_offset of KVM_SET_MEMORY_ATTRIBUTES2, in-place conversion v8", rows 38, under "headtail",
     seen by Errno)
    ErrorOffsetOfTheCall {} {
        fn error_at(&mut self, start: Gpa, _: Gpa) -> Gpa {
            start
        }
    }

    "attributes-half-set": "an ioctl that meets a held page has made those before it private"
    ("all or nothing for the range, in-place conversion v8", rows 38, under "headtail", seen by Debugfs)
    AttributesHalfSet {} {
        fn refuses_as_a_whole(&mut self) -> bool {
            false
        }
    }

    "equal-attributes-zapped": "setting the attribute that memory has zaps its private pages: the guest's data is gone"
    ("a range that has the attribute is no work, in-place conversion v8", under "headtail",
     seen by Debugfs)
    EqualAttributesZapped {} {
        fn skips_equal_attributes(&mut self, _: bool) -> bool {
            false
        }
    }

    "map-gpa-refused": "MapGPA converts and then reports an invalid operand"
    ("error after the point of no return, v3 review", rows 13, under "v5", seen by MapGpa)
    MapGpaRefused {} {
        fn map_gpa_status(&mut self, _: u64) -> u64 {
            vmcall::INVALID_OPERAND
        }
    }
}
