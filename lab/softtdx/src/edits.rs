//! The edits of KVM's own files, each with its purpose and anchor.

use crate::edit::{Applies, Edit};

const SVM: &str = "arch/x86/kvm/svm/svm.c";
const TDX: &str = crate::names::TDX;
const TDX_H: &str = "arch/x86/kvm/vmx/tdx.h";
const MMU: &str = "arch/x86/kvm/mmu/mmu.c";
const TDP_MMU: &str = "arch/x86/kvm/mmu/tdp_mmu.c";
const X86: &str = "arch/x86/kvm/x86.c";
const GMEM: &str = "virt/kvm/guest_memfd.c";
const KVM: &str = "virt/kvm/kvm_main.c";
const MAKEFILE: &str = "arch/x86/kvm/Makefile";

/// An edit that every tree needs.
const fn in_function(
    file: &'static str,
    function: &'static str,
    find: &'static str,
    replace: &'static str,
) -> Edit {
    Edit {
        file,
        function: Some(function),
        find,
        replace,
        applies: Applies::Always,
    }
}

/// An edit of a whole file.
const fn in_file(file: &'static str, find: &'static str, replace: &'static str) -> Edit {
    Edit {
        file,
        function: None,
        find,
        replace,
        applies: Applies::Always,
    }
}

/// An edit that a tree does without which has `own` already.
const fn unless(own: &'static str, edit: Edit) -> Edit {
    Edit {
        applies: Applies::Unless(own),
        ..edit
    }
}

/// An edit of what only some kernels have.
const fn if_there(text: &'static str, edit: Edit) -> Edit {
    Edit {
        applies: Applies::IfThere(text),
        ..edit
    }
}

/// Names of functions that split leaves of the S-EPT in trees that have them (v3 and v5).
pub(crate) const OWN_SPLITS: [&str; 2] =
    ["tdx_sept_split_private_spte", "tdx_sept_split_private_spt"];

/// All edits.
pub(crate) const EDITS: &[Edit] = &[
    // The build: beside KVM's own source, wherever the headers lie.
    in_file(
        MAKEFILE,
        "ccflags-y += -I $(srctree)/arch/x86/kvm\n",
        // Trace headers are looked for from where the kernel's own lie.
        "ccflags-y += -I $(src) -I $(src)/../../../include/trace\n",
    ),
    in_file(
        MAKEFILE,
        "include $(srctree)/virt/kvm/Makefile.kvm\n",
        "include $(src)/../../../virt/kvm/Makefile.kvm\n",
    ),
    in_file(
        MAKEFILE,
        "-nrw $(srctree)/virt/kvm $(srctree)/arch/x86/kvm |",
        "-nrw $(src)/../../../virt/kvm $(src) |",
    ),
    in_file(
        MAKEFILE,
        "obj-$(CONFIG_KVM_X86)\t+= kvm.o\n",
        "kvm-y\t\t\t+= softtdx/split.o softtdx/bugs.o softtdx/lies.o softtdx/pool.o\n\
         kvm-amd-y\t\t+= softtdx/kvm_tdx.o softtdx/vcpu.o softtdx/guest.o softtdx/manage.o \\\n\
         \t\t\t   softtdx/seamcall.o softtdx/tdcall.o softtdx/sept.o softtdx/host.o \\\n\
         \t\t\t   softtdx/debugfs.o softtdx/vectors.o\n\n\
         obj-$(CONFIG_KVM_X86)\t+= kvm.o\n",
    ),
    // TDs on SVM.
    in_file(
        SVM,
        "#include \"svm_ops.h\"\n",
        "#include \"svm_ops.h\"\n#include \"softtdx/softtdx.h\"\n",
    ),
    in_function(
        SVM,
        "svm_hardware_setup",
        "\treturn 0;\n\nerr:\n",
        "\tsofttdx_hardware_setup(&svm_x86_ops);\n\treturn 0;\n\nerr:\n",
    ),
    in_function(
        SVM,
        "svm_vm_init",
        "\tsev_vm_init(kvm);\n",
        "\tif (!softtdx_is_td(kvm))\n\t\tsev_vm_init(kvm);\n",
    ),
    in_function(
        SVM,
        "svm_init",
        "kvm_init(sizeof(struct vcpu_svm), __alignof__(struct vcpu_svm),",
        "kvm_init(softtdx_vcpu_size, __alignof__(struct vcpu_svm),",
    ),
    in_function(
        SVM,
        "__svm_exit",
        "\tkvm_x86_vendor_exit();\n",
        "\tsofttdx_unsetup();\n\tkvm_x86_vendor_exit();\n",
    ),
    in_function(
        TDX_H,
        "kvm_tdx",
        "\tstruct kvm kvm;\n\n",
        "\tunion {\n\t\tstruct kvm kvm;\n\t\tstruct kvm_svm svm;\n\t};\n\n",
    ),
    in_function(
        TDX_H,
        "vcpu_tdx",
        "\tstruct kvm_vcpu\tvcpu;\n\tstruct vcpu_vt vt;\n",
        "\tunion {\n\t\tstruct kvm_vcpu vcpu;\n\t\tstruct vcpu_svm svm;\n\t};\n\tstruct vcpu_vt vt;\n",
    ),
    // The lie "no-tdx".
    in_function(
        X86,
        "kvm_is_vm_type_supported",
        "\treturn type < 32 && (kvm_caps.supported_vm_types & BIT(type));",
        "\tif (type == KVM_X86_TDX_VM && softtdx_no_tdx())\n\t\treturn false;\n\
         \treturn type < 32 && (kvm_caps.supported_vm_types & BIT(type));",
    ),
    in_function(
        X86,
        "kvm_vm_ioctl_check_extension",
        "\t\tr = kvm_caps.supported_vm_types;\n",
        "\t\tr = kvm_caps.supported_vm_types;\n\
         \t\tif (softtdx_no_tdx())\n\t\t\tr &= ~BIT(KVM_X86_TDX_VM);\n",
    ),
    in_file(
        X86,
        "#include \"trace.h\"\n",
        "#include \"trace.h\"\n#include \"softtdx/softtdx.h\"\n",
    ),
    // Private memory is as aligned as its place in the guest_memfd.
    in_function(
        X86,
        "kvm_alloc_memslot_metadata",
        "\t\tugfn = slot->userspace_addr >> PAGE_SHIFT;\n",
        "\t\tugfn = softtdx_slot_ugfn(slot, slot->userspace_addr >> PAGE_SHIFT);\n",
    ),
    in_function(
        MMU,
        "host_pfn_mapping_level",
        "\thva = __gfn_to_hva_memslot(slot, gfn);\n",
        "\thva = __gfn_to_hva_memslot(slot, gfn);\n\
         \tif (softtdx_hva_misaligned(slot, gfn, hva))\n\t\treturn PG_LEVEL_4K;\n",
    ),
    in_file(
        MMU,
        "#include \"mmutrace.h\"\n",
        "#include \"mmutrace.h\"\n#include \"softtdx/softtdx.h\"\n\
         #define kvm_mem_is_private\tsofttdx_mem_is_private\n",
    ),
    // Tables of a mirror stay tables.
    unless(
        "is_mirror_sp(spte_to_child_sp(spte))",
        in_function(
            MMU,
            "disallowed_hugepage_adjust",
            "\t    spte_to_child_sp(spte)->nx_huge_page_disallowed) {",
            "\t    (spte_to_child_sp(spte)->nx_huge_page_disallowed ||\n\
             \t     softtdx_keeps_table(spte_to_child_sp(spte)))) {",
        ),
    ),
    unless(
        "fault->nx_huge_page_workaround_enabled || is_mirror",
        in_function(
            TDP_MMU,
            "kvm_tdp_mmu_map",
            "\t\tif (fault->nx_huge_page_workaround_enabled)\n",
            "\t\tif (fault->nx_huge_page_workaround_enabled || is_mirror_sp(root))\n",
        ),
    ),
    // Splits in a mirror.
    in_file(
        TDP_MMU,
        "#include \"spte.h\"\n",
        "#include \"spte.h\"\n#include \"softtdx/softtdx.h\"\n",
    ),
    in_function(
        TDP_MMU,
        "tdp_mmu_split_huge_pages_root",
        "target_level + 1, start, end) {\nretry:\n",
        "target_level + 1, start, end) {\n\t\tsofttdx_entry_seen();\nretry:\n",
    ),
    unless(
        "tdp_mmu_alloc_sp_for_split(bool mirror)",
        in_function(
            TDP_MMU,
            "tdp_mmu_split_huge_pages_root",
            "sp = tdp_mmu_alloc_sp_for_split();",
            "sp = softtdx_with_external_spt(root, tdp_mmu_alloc_sp_for_split());",
        ),
    ),
    in_function(
        TDP_MMU,
        "tdp_mmu_split_huge_page",
        "\tkvm_update_page_stats(kvm, level - 1, SPTE_ENT_PER_PAGE);\n",
        "\tif (!softtdx_bug(PARTS_NOT_COUNTED))\n\
         \t\tkvm_update_page_stats(kvm, level - 1, SPTE_ENT_PER_PAGE);\n",
    ),
    in_function(
        TDP_MMU,
        "tdp_mmu_split_huge_page",
        "\ttrace_kvm_mmu_split_huge_page(iter->gfn, huge_spte, level, ret);\n",
        "\tsofttdx_leaf_split(ret);\n\
         \tif (!softtdx_bug(EVENT_MISSING))\n\
         \t\ttrace_kvm_mmu_split_huge_page(iter->gfn, huge_spte, level, ret);\n\
         \tif (softtdx_bug(EVENT_TWICE))\n\
         \t\ttrace_kvm_mmu_split_huge_page(iter->gfn, huge_spte, level, ret);\n",
    ),
    in_function(
        TDP_MMU,
        "__handle_changed_spte",
        "\tif (is_leaf != was_leaf)\n",
        "\tif (is_leaf != was_leaf &&\n\
         \t    !(softtdx_bug(LEAF_STAYS_COUNTED) && was_leaf && level == PG_LEVEL_2M))\n",
    ),
    in_function(
        TDP_MMU,
        "tdp_mmu_zap_leafs",
        "\tend = min(end, tdp_mmu_max_gfn_exclusive());\n",
        "\tend = min(end, tdp_mmu_max_gfn_exclusive());\n\
         \tstart = softtdx_zap_start(root, start, end);\n\
         \tend = softtdx_zap_end(root, start, end);\n",
    ),
    // guest_memfd: folios of 2M, and holes that split before they zap.
    in_file(
        GMEM,
        "#include \"kvm_mm.h\"\n",
        "#include \"kvm_mm.h\"\n#include \"softtdx/softtdx.h\"\n",
    ),
    // Linux 7.2 warns of slots whose place in the file is not that aligned, as QEMU's are.
    if_there(
        "WARN_ON(!IS_ALIGNED(slot->gmem.pgoff",
        in_function(
            GMEM,
            "kvm_gmem_prepare_folio",
            "\tWARN_ON(!IS_ALIGNED(slot->gmem.pgoff, folio_nr_pages(folio)));\n",
            "",
        ),
    ),
    in_function(
        GMEM,
        "kvm_gmem_get_folio",
        "\tpolicy = mpol_shared_policy_lookup(",
        "\tfolio = softtdx_gmem_huge_folio(inode, index);\n\
         \tif (!IS_ERR(folio))\n\t\treturn folio;\n\n\
         \tpolicy = mpol_shared_policy_lookup(",
    ),
    in_function(
        GMEM,
        "kvm_gmem_punch_hole",
        "\tkvm_gmem_invalidate_start(inode, start, end);\n",
        "\tr = softtdx_hole_begin(inode, start, end);\n\
         \tif (r) {\n\t\tfilemap_invalidate_unlock(inode->i_mapping);\n\t\treturn r;\n\t}\n\
         \tkvm_gmem_invalidate_start(inode, start, end);\n\
         \tr = softtdx_hole_zapped(inode, &offset, &len);\n",
    ),
    in_function(
        GMEM,
        "kvm_gmem_punch_hole",
        "\tpgoff_t end = (offset + len) >> PAGE_SHIFT;\n",
        "\tpgoff_t end = (offset + len) >> PAGE_SHIFT;\n\tlong r;\n",
    ),
    in_function(
        GMEM,
        "kvm_gmem_punch_hole",
        "\ttruncate_inode_pages_range(",
        "\tif (len)\n\t\ttruncate_inode_pages_range(",
    ),
    in_function(
        GMEM,
        "kvm_gmem_punch_hole",
        "\tkvm_gmem_invalidate_end(inode, start, end);\n",
        "\tkvm_gmem_invalidate_end(inode, start, end);\n\tsofttdx_hole_end(inode, start, end);\n",
    ),
    in_function(
        GMEM,
        "kvm_gmem_punch_hole",
        "\treturn 0;\n",
        "\treturn r;\n",
    ),
    in_function(
        GMEM,
        "__kvm_gmem_create",
        "\tfd = get_unused_fd_flags(0);\n",
        "\terr = softtdx_refused(kvm, SOFTTDX_CREATE_GUEST_MEMFD);\n\
         \tif (err)\n\t\treturn err;\n\n\
         \tfd = get_unused_fd_flags(0);\n",
    ),
    in_function(
        GMEM,
        "__kvm_gmem_create",
        "\tmapping_set_inaccessible(inode->i_mapping);\n",
        "\tmapping_set_inaccessible(inode->i_mapping);\n\
         \tmapping_set_large_folios(inode->i_mapping);\n",
    ),
    in_function(
        GMEM,
        "__kvm_gmem_get_pfn",
        "\t\t*max_order = 0;\n",
        "\t\t*max_order = softtdx_gmem_max_order(slot, folio);\n",
    ),
    in_function(
        GMEM,
        "kvm_gmem_get_pfn",
        "\t\tclear_highpage(folio_page(folio, 0));\n",
        "\t\tsofttdx_gmem_clear_folio(folio);\n",
    ),
    in_function(
        GMEM,
        "__kvm_gmem_populate",
        "\tfolio_unlock(folio);\n",
        "\tif (folio_test_large(folio) && !folio_test_uptodate(folio)) {\n\
         \t\tsofttdx_gmem_clear_folio(folio);\n\
         \t\tfolio_mark_uptodate(folio);\n\t}\n\
         \tfolio_unlock(folio);\n",
    ),
    // Memory attributes: splits before the zap, with an error that user space sees.
    in_file(
        KVM,
        "#include \"kvm_mm.h\"\n",
        "#include \"kvm_mm.h\"\n#include \"softtdx/softtdx.h\"\n",
    ),
    in_function(
        KVM,
        "kvm_supported_mem_attributes",
        "\tif (!kvm || kvm_arch_has_private_mem(kvm))\n",
        "\tif (softtdx_no_attributes(kvm))\n\t\treturn 0;\n\
         \tif (!kvm || kvm_arch_has_private_mem(kvm))\n",
    ),
    in_function(
        KVM,
        "kvm_vm_set_mem_attributes",
        "\tkvm_handle_gfn_range(kvm, &pre_set_range);\n",
        "\tr = softtdx_attributes_begin(kvm, start, end, attributes);\n\
         \tif (r)\n\t\tgoto out_unlock;\n\n\
         \tkvm_handle_gfn_range(kvm, &pre_set_range);\n",
    ),
    in_function(
        KVM,
        "kvm_vm_set_mem_attributes",
        "\tkvm_handle_gfn_range(kvm, &post_set_range);\n",
        "\tkvm_handle_gfn_range(kvm, &post_set_range);\n\tsofttdx_attributes_end(kvm);\n",
    ),
    in_function(
        KVM,
        "mark_page_dirty_in_slot",
        "\tif (memslot && kvm_slot_dirty_track_enabled(memslot)) {\n",
        "\tif (softtdx_bug(PAGE_NOT_LOGGED) && gfn % 8 == 3)\n\t\treturn;\n\n\
         \tif (memslot && kvm_slot_dirty_track_enabled(memslot)) {\n",
    ),
    // KVM's TDX code: leaves of 2M, the accepted level, and the lie "drop-conversion".
    unless(
        OWN_SPLITS[0],
        in_function(
            TDX,
            "tdx_sept_map_leaf_spte",
            "\tif (KVM_BUG_ON(level != PG_LEVEL_4K, kvm))\n",
            "\tif (KVM_BUG_ON(level > PG_LEVEL_2M, kvm))\n",
        ),
    ),
    unless(
        OWN_SPLITS[0],
        in_function(
            TDX,
            "tdx_sept_remove_leaf_spte",
            "\tif (KVM_BUG_ON(level != PG_LEVEL_4K, kvm))\n",
            "\tif (KVM_BUG_ON(level > PG_LEVEL_2M, kvm))\n",
        ),
    ),
    in_function(
        TDX,
        "tdx_sept_remove_leaf_spte",
        "\ttdx_track(kvm);\n",
        "\tif (!softtdx_bug(REMOVE_WITHOUT_TRACK))\n\t\ttdx_track(kvm);\n",
    ),
    unless(
        OWN_SPLITS[0],
        in_function(
            TDX,
            "tdx_sept_set_private_spte",
            "\tif (is_shadow_present_pte(old_spte))\n",
            "\tif (is_shadow_present_pte(old_spte) && is_shadow_present_pte(new_spte))\n\
             \t\treturn softtdx_split_leaf(kvm, gfn, level, new_spte);\n\n\
             \tif (is_shadow_present_pte(old_spte))\n",
        ),
    ),
    unless(
        "tdx_honor_guest_accept_level",
        in_function(
            TDX,
            "tdx_handle_ept_violation",
            "\t\texit_qual = EPT_VIOLATION_ACC_WRITE;\n",
            "\t\texit_qual = EPT_VIOLATION_ACC_WRITE;\n\n\
             \t\tret = softtdx_honor_accept_level(vcpu, gpa_to_gfn(gpa));\n\
             \t\tif (ret)\n\t\t\treturn ret;\n",
        ),
    ),
    unless(
        "tdx_huge_page",
        in_function(
            TDX,
            "tdx_gmem_max_mapping_level",
            "\treturn PG_LEVEL_4K;\n",
            "\treturn softtdx_max_level(kvm);\n",
        ),
    ),
    in_function(
        TDX,
        "__tdx_map_gpa",
        "= vt_is_tdx_private_gpa(tdx->vcpu.kvm, gpa) ?",
        "= vt_is_tdx_private_gpa(tdx->vcpu.kvm, gpa) ^\n\
         \t\t\t\t\t   softtdx_drops_conversion(tdx->vcpu.kvm) ?",
    ),
];

/// Text appended to KVM's own files.
pub(crate) const TAILS: [(&str, &str); 2] = [
    (TDP_MMU, "\n#include \"softtdx/tdp_mmu.inc.c\"\n"),
    (GMEM, "\n#include \"softtdx/gmem.inc.c\"\n"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// An anchor is a line or two, never a piece of the kernel.
    #[test]
    fn anchors_are_small() {
        for edit in EDITS {
            assert!(edit.find.trim_end().lines().count() <= 3, "{edit:?}");
        }
    }
}
