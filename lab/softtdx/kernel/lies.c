// SPDX-License-Identifier: GPL-2.0-only
/* The parameter that asks for lies: reads it whole or not at all. */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "softtdx/softtdx.h"

/* A guest that gives up; QEMU takes no code with any of the low 16 bits set. */
#define USUAL_CODE	BIT_ULL(16)

struct lies {
	int errno[SOFTTDX_REFUSABLE_NR];
	u64 times[SOFTTDX_REFUSABLE_NR];
	u64 end_at[SOFTTDX_END_NR];
	u64 code;
	u64 drop_conversion;
	u64 populate;
	bool no_tdx;
	bool no_attributes;
	bool coarse_holes;
	bool fragmented;
};

/* What has happened in the life of the current TD. */
struct told {
	u64 times[SOFTTDX_REFUSABLE_NR];
	u64 accepts;
	u64 conversions;
};

static DEFINE_SPINLOCK(lock);
static struct lies lies;
static struct told told;
static char as_given[256];

static const char * const refusables[] = {
	[SOFTTDX_CAPABILITIES] = "CAPABILITIES",
	[SOFTTDX_INIT_VM] = "INIT_VM",
	[SOFTTDX_INIT_VCPU] = "INIT_VCPU",
	[SOFTTDX_INIT_MEM_REGION] = "INIT_MEM_REGION",
	[SOFTTDX_FINALIZE_VM] = "FINALIZE_VM",
	[SOFTTDX_GET_CPUID] = "GET_CPUID",
	[SOFTTDX_CREATE_GUEST_MEMFD] = "CREATE_GUEST_MEMFD",
	[SOFTTDX_SET_MEMORY_ATTRIBUTES] = "SET_MEMORY_ATTRIBUTES",
};

static const struct {
	const char *name;
	int errno;
} errnos[] = {
	{ "E2BIG", E2BIG }, { "EAGAIN", EAGAIN }, { "EBUSY", EBUSY },
	{ "EEXIST", EEXIST }, { "EFAULT", EFAULT }, { "EINVAL", EINVAL },
	{ "EIO", EIO }, { "ENODEV", ENODEV }, { "ENOMEM", ENOMEM },
	{ "ENOSPC", ENOSPC }, { "EOPNOTSUPP", EOPNOTSUPP }, { "EPERM", EPERM },
};

static int number(const char *text, u64 *value)
{
	if (!text || kstrtou64(text, 0, value) || !*value)
		return -EINVAL;
	return 0;
}

/* COMMAND:ERRNO or COMMAND:ERRNO*N */
static int parse_refusal(char *text, struct lies *l)
{
	char *errno = text, *what = strsep(&errno, ":"), *times = errno;
	int i, w;

	w = match_string(refusables, ARRAY_SIZE(refusables), what);
	if (w < 0 || !errno)
		return -EINVAL;
	errno = strsep(&times, "*");
	l->times[w] = U64_MAX;
	if (times && number(times, &l->times[w]))
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(errnos); i++) {
		if (!strcmp(errno, errnos[i].name)) {
			l->errno[w] = -errnos[i].errno;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_panic(char *text, struct lies *l)
{
	char *code = text, *at = strsep(&code, ":");

	l->code = USUAL_CODE;
	if (code && kstrtou64(code, 0, &l->code))
		return -EINVAL;
	return number(at, &l->end_at[SOFTTDX_PANICS]);
}

static int parse_lie(char *text, struct lies *l)
{
	char *value = text, *name = strsep(&value, "=");

	if (!value) {
		if (!strcmp(name, "no-tdx"))
			l->no_tdx = true;
		else if (!strcmp(name, "no-attributes"))
			l->no_attributes = true;
		else if (!strcmp(name, "coarse-holes"))
			l->coarse_holes = true;
		else if (!strcmp(name, "fragmented"))
			l->fragmented = true;
		else
			return -EINVAL;
		return 0;
	}
	if (!strcmp(name, "refuse"))
		return parse_refusal(value, l);
	if (!strcmp(name, "panic"))
		return parse_panic(value, l);
	if (!strcmp(name, "kill"))
		return number(value, &l->end_at[SOFTTDX_KILLED]);
	if (!strcmp(name, "triple-fault"))
		return number(value, &l->end_at[SOFTTDX_TRIPLE_FAULT]);
	if (!strcmp(name, "drop-conversion"))
		return number(value, &l->drop_conversion);
	if (!strcmp(name, "populate"))
		return number(value, &l->populate);
	return -EINVAL;
}

static int lies_set(const char *text, const struct kernel_param *kp)
{
	struct lies parsed = {};
	char *copy, *rest, *lie;
	int r = 0;

	if (strlen(text) >= sizeof(as_given))
		return -E2BIG;
	copy = kstrdup(text, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	rest = strim(copy);
	while (!r && (lie = strsep(&rest, ",")) != NULL) {
		lie = strim(lie);
		if (*lie)
			r = parse_lie(lie, &parsed);
	}
	kfree(copy);
	if (r)
		return r;

	spin_lock(&lock);
	lies = parsed;
	memset(&told, 0, sizeof(told));
	strscpy(as_given, text);
	strim(as_given);
	spin_unlock(&lock);
	return 0;
}

static int lies_get(char *text, const struct kernel_param *kp)
{
	int n;

	spin_lock(&lock);
	n = sysfs_emit(text, "%s\n", as_given);
	spin_unlock(&lock);
	return n;
}

static const struct kernel_param_ops lies_ops = {
	.set = lies_set,
	.get = lies_get,
};
module_param_cb(softtdx_lies, &lies_ops, NULL, 0644);

/* A new TD starts: what is counted is counted from here. */
void softtdx_lies_restart(void)
{
	spin_lock(&lock);
	memset(&told, 0, sizeof(told));
	spin_unlock(&lock);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_lies_restart);

/* 0, or the error that @what fails with. */
int softtdx_refused(struct kvm *kvm, enum softtdx_refusable what)
{
	int r = 0;

	if (!softtdx_is_td(kvm))
		return 0;
	spin_lock(&lock);
	if (lies.errno[what] && told.times[what] < lies.times[what]) {
		told.times[what]++;
		r = lies.errno[what];
	}
	spin_unlock(&lock);
	return r;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_refused);

/* Counts an ACCEPT, and says how the TD is to end of it. */
enum softtdx_end softtdx_end_at_accept(u64 *code)
{
	enum softtdx_end end, due = SOFTTDX_GOES_ON;

	spin_lock(&lock);
	told.accepts++;
	for (end = SOFTTDX_KILLED; end < SOFTTDX_END_NR; end++) {
		if (lies.end_at[end] == told.accepts)
			due = end;
	}
	*code = lies.code;
	spin_unlock(&lock);
	return due;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_end_at_accept);

/* Counts a chunk of MapGPA, and says whether it is to be dropped. */
bool softtdx_drops_conversion(struct kvm *kvm)
{
	bool drops;

	spin_lock(&lock);
	drops = ++told.conversions == lies.drop_conversion;
	spin_unlock(&lock);
	return drops;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_drops_conversion);

unsigned long softtdx_populates(void)
{
	return READ_ONCE(lies.populate);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_populates);

bool softtdx_no_tdx(void)
{
	return READ_ONCE(lies.no_tdx);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_no_tdx);

bool softtdx_no_attributes(struct kvm *kvm)
{
	return READ_ONCE(lies.no_attributes) && (!kvm || softtdx_is_td(kvm));
}

bool softtdx_coarse_holes(void)
{
	return READ_ONCE(lies.coarse_holes);
}

bool softtdx_fragmented(void)
{
	return READ_ONCE(lies.fragmented);
}
