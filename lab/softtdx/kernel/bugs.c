// SPDX-License-Identifier: GPL-2.0-only
/* The parameter that seeds a bug: its name, or "none". */
#include <linux/module.h>
#include <linux/string.h>

#include "softtdx/softtdx.h"

enum softtdx_bug softtdx_seeded;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(softtdx_seeded);

#define SOFTTDX_BUG_NAME(id, name)	[SOFTTDX_BUG_##id] = name,
static const char * const names[] = {
	[SOFTTDX_BUG_NONE] = "none",
	SOFTTDX_BUGS(SOFTTDX_BUG_NAME)
};

static int bug_set(const char *text, const struct kernel_param *kp)
{
	int bug = __sysfs_match_string(names, ARRAY_SIZE(names), text);

	if (bug < 0)
		return -EINVAL;
	WRITE_ONCE(softtdx_seeded, bug);
	return 0;
}

static int bug_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%s\n", names[READ_ONCE(softtdx_seeded)]);
}

static const struct kernel_param_ops bug_ops = {
	.set = bug_set,
	.get = bug_get,
};
module_param_cb(softtdx_bug, &bug_ops, NULL, 0644);
