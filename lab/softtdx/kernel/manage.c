// SPDX-License-Identifier: GPL-2.0-only
/*
 * SEAMCALLs on the life of a TD and its vCPUs, key ids, and what the module says
 * of itself.
 */
#include <linux/idr.h>
#include <linux/slab.h>

#include "softtdx/module.h"
#include "vmx/tdx_arch.h"

/* As many private key ids as small servers have. */
#define KEY_IDS		63

LIST_HEAD(soft_tds);
/* Of the list of TDs. */
DEFINE_MUTEX(soft_tds_lock);

static DEFINE_IDA(key_ids);

int tdx_guest_keyid_alloc(void)
{
	return ida_alloc_range(&key_ids, 1, KEY_IDS, GFP_KERNEL);
}

void tdx_guest_keyid_free(unsigned int keyid)
{
	ida_free(&key_ids, keyid);
}

u32 tdx_get_nr_guest_keyids(void)
{
	return KEY_IDS;
}

/*
 * CPUID leaves that the host may configure, all bits of them: the played module
 * virtualises none itself.
 */
static struct tdx_sys_info sysinfo = {
	.version = { .major_version = 1, .minor_version = 5, .update_version = 25 },
	.features.tdx_features0 = TDX_FEATURES0_NO_RBP_MOD | MD_FIELD_ID_FEATURES0_TOPOLOGY_ENUM,
	.td_ctrl = {
		.tdr_base_size = PAGE_SIZE,
		.tdcs_base_size = PAGE_SIZE,	/* the root of the S-EPT */
		.tdvps_base_size = 2 * PAGE_SIZE, /* TDVPR, and the root that the CPU walks */
	},
	.td_conf = {
		.attributes_fixed0 = TDX_TD_ATTR_SEPT_VE_DISABLE,
		.xfam_fixed1 = 3,
		.num_cpuid_config = 7,
		.max_vcpus_per_td = U16_MAX,
		.cpuid_config_leaves = {
			0xffffffff00000001, 0x0000000000000007, 0x0000000100000007,
			0x000000000000000d, 0x000000010000000d,
			0xffffffff80000001, 0xffffffff80000008,
		},
	},
};

const struct tdx_sys_info *soft_sysinfo(void)
{
	return &sysinfo;
}

void soft_sysinfo_init(u64 xfam)
{
	int i;

	sysinfo.td_conf.xfam_fixed0 = xfam;
	for (i = 0; i < sysinfo.td_conf.num_cpuid_config; i++) {
		sysinfo.td_conf.cpuid_config_values[i][0] = ~0ULL;
		sysinfo.td_conf.cpuid_config_values[i][1] = ~0ULL;
	}
}

void soft_td_start(struct soft_td *td, int hkid)
{
	memset(td, 0, sizeof(*td));
	td->magic = SOFT_TD_MAGIC;
	td->hkid = hkid;
	td->interrupt_in = -1;
	spin_lock_init(&td->vcpus_lock);
	INIT_LIST_HEAD(&td->vcpus);
	INIT_LIST_HEAD(&td->node);
}

u64 tdh_mng_create(struct tdx_td *td, u16 hkid)
{
	struct soft_td *soft = soft_td_of(td);

	BUILD_BUG_ON(sizeof(*soft) > PAGE_SIZE);
	soft_td_start(soft, hkid);
	mutex_lock(&soft_tds_lock);
	list_add_tail(&soft->node, &soft_tds);
	mutex_unlock(&soft_tds_lock);
	return 0;
}

u64 tdh_mng_key_config(struct tdx_td *td)
{
	soft_td_of(td)->lifecycle = SOFT_KEYS_CONFIGURED;
	return 0;
}

u64 tdh_mng_addcx(struct tdx_td *td, struct page *tdcs_page)
{
	struct soft_td *soft = soft_td_of(td);

	if (!soft->tdcs_pages++) {
		soft->root = page_address(tdcs_page);
		clear_page(soft->root);
	}
	return 0;
}

u64 tdh_mng_init(struct tdx_td *td, u64 td_params, u64 *extended_err)
{
	struct td_params *params = __va(td_params);
	struct soft_td *soft = soft_td_of(td);

	*extended_err = 0;
	if (!soft->root || soft->op_state != SOFT_UNINITIALIZED)
		return SOFT_OP_STATE | soft->op_state;
	if (params->attributes & ~sysinfo.td_conf.attributes_fixed0 ||
	    params->xfam & ~sysinfo.td_conf.xfam_fixed0 ||
	    (params->xfam & sysinfo.td_conf.xfam_fixed1) != sysinfo.td_conf.xfam_fixed1 ||
	    params->config_flags & TDX_CONFIG_FLAGS_MAX_GPAW)
		return SOFT_OPERAND_INVALID | SOFT_RDX;
	soft->attributes = params->attributes;
	soft->xfam = params->xfam;
	if (soft->attributes & TDX_TD_ATTR_SEPT_VE_DISABLE)
		soft->td_ctls = TD_CTLS_PENDING_VE_DISABLE;
	soft->tsc_khz = TDX_TSC_25MHZ_TO_KHZ(params->tsc_frequency);
	soft->op_state = SOFT_INITIALIZED;
	return 0;
}

/* A field of the TD.  Of CPUID, only how far the leaves go. */
u64 tdh_mng_rd(struct tdx_td *td, u64 field, u64 *data)
{
	const u64 no_subleaf = 0x1fe;

	*data = 0;
	switch (field) {
	case TDCS_EXEC(TD_TDCS_EXEC_TSC_OFFSET):
		return 0;
	case TDCS_EXEC(TD_TDCS_EXEC_TSC_MULTIPLIER):
		*data = BIT_ULL(48);
		return 0;
	case TD_MD_FIELD_ID_CPUID_VALUES | no_subleaf:
	case TD_MD_FIELD_ID_CPUID_VALUES | no_subleaf | 1:
		return 0;
	case TD_MD_FIELD_ID_CPUID_VALUES | BIT(16) | no_subleaf:
		*data = 0x80000000;
		return 0;
	case TD_MD_FIELD_ID_CPUID_VALUES | BIT(16) | no_subleaf | 1:
		return 0;
	default:
		return TDX_METADATA_FIELD_NOT_READABLE;
	}
}

/* Measurement is not played: the registers stay zero. */
u64 tdh_mr_extend(struct tdx_td *td, u64 gpa, u64 *ext_err1, u64 *ext_err2)
{
	*ext_err1 = 0;
	*ext_err2 = 0;
	return soft_private_va(soft_td_of(td), gpa) ? 0 : SOFT_WALK_FAILED | SOFT_RCX;
}

u64 tdh_mr_finalize(struct tdx_td *td)
{
	struct soft_td *soft = soft_td_of(td);

	if (soft->op_state != SOFT_INITIALIZED)
		return SOFT_OP_STATE | soft->op_state;
	soft->op_state = SOFT_RUNNABLE;
	return 0;
}

u64 tdh_vp_create(struct tdx_td *td, struct tdx_vp *vp)
{
	soft_vp_start(soft_vp_of(vp), soft_td_of(td));
	return 0;
}

void soft_vp_start(struct soft_vp *vp, struct soft_td *td)
{
	memset(vp, 0, sizeof(*vp));
	vp->magic = SOFT_TD_MAGIC;
	vp->td = td;
	spin_lock(&td->vcpus_lock);
	vp->index = td->vcpu_count++;
	list_add_tail(&vp->node, &td->vcpus);
	spin_unlock(&td->vcpus_lock);
}

u64 tdh_vp_addcx(struct tdx_vp *vp, struct page *tdcx_page)
{
	struct soft_vp *soft = soft_vp_of(vp);

	soft->npt_root = page_address(tdcx_page);
	clear_page(soft->npt_root);
	return 0;
}

u64 tdh_vp_init(struct tdx_vp *vp, u64 initial_rcx, u32 x2apicid)
{
	struct soft_vp *soft = soft_vp_of(vp);

	soft->initial_rcx = initial_rcx;
	soft->epoch = soft->td->epoch;
	return 0;
}

u64 tdh_vp_flush(struct tdx_vp *vp)
{
	return 0;
}

/* Fields of a vCPU: posted interrupts and such are not played, and not refused. */
u64 tdh_vp_rd(struct tdx_vp *vp, u64 field, u64 *data)
{
	*data = 0;
	return 0;
}

u64 tdh_vp_wr(struct tdx_vp *vp, u64 field, u64 data, u64 mask)
{
	return 0;
}

u64 tdh_mng_vpflushdone(struct tdx_td *td)
{
	return 0;
}

/* After this the S-EPT is gone for good: its pages go back one by one. */
u64 tdh_mng_key_freeid(struct tdx_td *td)
{
	struct soft_td *soft = soft_td_of(td);

	soft->lifecycle = SOFT_TEARDOWN;
	mutex_lock(&soft_tds_lock);
	list_del_init(&soft->node);
	mutex_unlock(&soft_tds_lock);
	return 0;
}

u64 tdh_phymem_cache_wb(bool resume)
{
	return 0;
}

u64 tdh_phymem_page_reclaim(struct page *page, u64 *tdx_pt, u64 *tdx_owner, u64 *tdx_size)
{
	struct soft_vp *vp = page_address(page);

	*tdx_pt = 0;
	*tdx_owner = 0;
	*tdx_size = 0;
	/* A TDVPR: the TD, whose TDR is reclaimed last, forgets the vCPU. */
	if (vp->magic == SOFT_TD_MAGIC && vp->td && virt_addr_valid(vp->td) &&
	    vp->td->magic == SOFT_TD_MAGIC && vp->node.next) {
		spin_lock(&vp->td->vcpus_lock);
		list_del_init(&vp->node);
		spin_unlock(&vp->td->vcpus_lock);
	}
	return 0;
}

u64 tdh_phymem_page_wbinvd_tdr(struct tdx_td *td)
{
	return 0;
}

u64 tdh_phymem_page_wbinvd_hkid(u64 hkid, kvm_pfn_t pfn)
{
	return 0;
}

/* No part with the erratum of partial writes is played. */
void tdx_quirk_reset_paddr(unsigned long base, unsigned long size)
{
}
