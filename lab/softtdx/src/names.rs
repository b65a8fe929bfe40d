//! Names of the items extracted from KVM's `arch/x86/kvm/vmx/tdx.c`.

/// Below the kernel's source.
pub(crate) const TDX: &str = "arch/x86/kvm/vmx/tdx.c";

/// Names in a row.
macro_rules! names {
    ($($name:literal)*) => { &[$($name),*] };
}

/// Functions, macros and types that every KVM with TDX has, as of Linux 7.2.
pub(crate) const TAKEN: &[&str] = names! {
    // Reports of failed SEAMCALLs.
    "__TDX_BUG_ON" "TDX_BUG_ON" "TDX_BUG_ON_1" "TDX_BUG_ON_2" "TDX_BUG_ON_3" "tdh_vp_rd_failed"
    "tdh_vp_wr_failed" "tdx_operand_busy" "tdh_do_no_vcpus"
    // Capabilities and parameters of a TD.
    "TDX_SHARED_BIT_PWL_4" "TDX_SHARED_BIT_PWL_5" "KVM_SUPPORTED_TDX_TD_ATTRS" "to_kvm_tdx" "to_tdx"
    "tdx_get_supported_attrs" "tdx_get_supported_xfam" "tdx_get_guest_phys_addr_bits"
    "tdx_set_guest_phys_addr_bits" "TDX_FEATURE_TSX" "has_tsx" "clear_tsx" "has_waitpkg"
    "clear_waitpkg" "tdx_clear_unsupported_cpuid" "tdx_unsupported_cpuid" "KVM_TDX_CPUID_NO_SUBLEAF"
    "td_init_cpuid_entry2" "TDVMCALLINFO_SETUP_EVENT_NOTIFY_INTERRUPT" "init_kvm_tdx_caps"
    "tdx_get_capabilities" "setup_tdparams_eptp_controls" "setup_tdparams_cpuids" "setup_tdparams"
    "__tdx_td_init" "tdx_td_init" "tdx_do_tdh_mng_key_config"
    // Its end.
    "tdx_hkid_free" "is_hkid_assigned" "tdx_disassociate_vp" "__tdx_reclaim_page" "tdx_reclaim_page"
    "tdx_reclaim_control_page" "tdx_flush_vp_arg" "tdx_flush_vp" "tdx_flush_vp_on_cpu"
    "TDX_SEAMCALL_RETRIES" "smp_func_do_phymem_cache_wb" "tdx_mmu_release_hkid"
    "tdx_reclaim_td_control_pages" "tdx_vm_destroy"
    // vCPUs.
    "tdx_td_vcpu_init" "tdx_vcpu_init" "tdx_vcpu_load" "tdx_vcpu_free" "tdx_interrupt_allowed"
    "TDX_MD_UNREADABLE_LEAF_MASK" "TDX_MD_UNREADABLE_SUBLEAF_MASK" "tdx_td_metadata_field_read"
    "tdx_read_cpuid" "tdx_vcpu_get_cpuid_leaf" "tdx_vcpu_get_cpuid"
    // TD exits.
    "tdvmcall_exit_type" "tdvmcall_leaf" "tdvmcall_set_return_code" "tdvmcall_set_return_val"
    "tdcall_to_vmx_exit_reason" "tdx_to_vmx_exit_reason" "tdx_failed_vmentry" "tdx_handle_exit"
    "complete_hypercall_exit" "tdx_emulate_vmcall" "tdx_emulate_cpuid" "tdx_has_emulated_msr"
    "tdx_is_read_only_msr" "tdx_get_msr" "tdx_set_msr" "tdx_complete_emulated_msr"
    "TDX_MAP_GPA_MAX_LEN" "tdx_complete_vmcall_map_gpa" "__tdx_map_gpa" "tdx_map_gpa"
    "tdx_report_fatal_error" "tdx_complete_pio_out" "tdx_complete_pio_in" "tdx_emulate_io"
    "tdx_complete_mmio_read" "tdx_mmio_write" "tdx_mmio_read" "tdx_emulate_mmio"
    "tdx_complete_get_td_vm_call_info" "tdx_get_td_vm_call_info" "tdx_complete_simple"
    "tdx_get_quote" "tdx_setup_event_notify_interrupt" "handle_tdvmcall"
    // The S-EPT.
    "tdx_mem_page_add" "tdx_mem_page_aug" "tdx_spte_to_sept_pt" "tdx_sept_map_nonleaf_spte"
    "tdx_sept_map_leaf_spte" "tdx_track" "tdx_sept_remove_leaf_spte" "tdx_sept_set_private_spte"
    "tdx_sept_free_private_spt" "tdx_is_sept_violation_unexpected_pending"
    "tdx_handle_ept_violation" "tdx_gmem_max_mapping_level"
    // ioctls.
    "tdx_vm_state_guard_t" "tdx_acquire_vm_state_locks" "tdx_release_vm_state_locks"
    "DEFINE_CLASS:tdx_vm_state_guard" "tdx_td_finalize" "tdx_get_cmd" "tdx_vm_ioctl"
    "tdx_gmem_post_populate_arg" "tdx_gmem_post_populate" "tdx_vcpu_init_mem_region"
    "tdx_vcpu_unlocked_ioctl" "tdx_vcpu_ioctl"
};

/// Further ones, which only some kernels have; what calls them is theirs, too.
pub(crate) const TAKEN_IF_THERE: &[&str] = names! {
    // From Linux 7.3 on.
    "tdx_is_exit_reason_valid" "__tdx_handle_exit"
};
