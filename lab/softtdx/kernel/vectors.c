// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module without a guest: every open file of softtdx/vectors is a TD of its
 * own, each line written is one call, and what is read is its result.
 *
 *   new VCPUS VE_DISABLED
 *   sept_add|aug|add|block|blockleaf|remove|demote GPA LEVEL [HPA]
 *   accept GPA LEVEL, attr_rd GPA, access GPA r|w, track
 *   finalize, kick [VCPU], leave [VCPU], enter [VCPU], intr CHECKS
 *   set opstate|lifecycle|fatal N
 *   lock tree_ex|tree_sh|epoch_ex|epoch_sh|opstate_ex|tdr_ex|tdr_sh
 *   lock entry|hp GPA LEVEL
 *
 * Numbers are hexadecimal with 0x.  A result is one of
 *
 *   complete RAX RCX RDX STATE
 *   td_exit GPA QUALIFICATION EEQ STATE
 *   inject VECTOR STATE
 *   access_ok STATE | tdcall_restart STATE | skip STATE | (env)
 *
 * where STATE is level:state of where the walk for the GPA ends.  Frames are
 * numbers only: no memory is touched but that of tables.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "softtdx/kvm_tdx.h"

#define VCPUS_MAX	4
#define WORDS_MAX	6

struct context {
	struct mutex lock;		/* one line at a time */
	struct soft_td *td;
	struct soft_vp *vcpus[VCPUS_MAX];
	int vcpu_count;
	struct list_head tables;	/* pages of the S-EPT */
	char result[160];
	size_t length;
};

static void context_clear(struct context *c)
{
	struct page *page, *next;
	int i;

	list_for_each_entry_safe(page, next, &c->tables, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	for (i = 0; i < c->vcpu_count; i++)
		free_page((unsigned long)c->vcpus[i]);
	c->vcpu_count = 0;
	free_page((unsigned long)c->td);
	c->td = NULL;
}

static u64 *table_new(struct context *c)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);

	if (!page)
		return NULL;
	list_add(&page->lru, &c->tables);
	return page_address(page);
}

static int op_new(struct context *c, u64 vcpus, u64 ve_disabled)
{
	int i;

	if (!vcpus || vcpus > VCPUS_MAX)
		return -EINVAL;
	context_clear(c);
	c->td = (void *)get_zeroed_page(GFP_KERNEL);
	if (!c->td)
		return -ENOMEM;
	soft_td_start(c->td, 1);
	c->td->lifecycle = SOFT_KEYS_CONFIGURED;
	c->td->op_state = SOFT_INITIALIZED;
	c->td->frames_untouched = true;
	c->td->root = table_new(c);
	if (ve_disabled)
		c->td->attributes = TDX_TD_ATTR_SEPT_VE_DISABLE;
	for (i = 0; i < vcpus; i++) {
		c->vcpus[i] = (void *)get_zeroed_page(GFP_KERNEL);
		if (!c->vcpus[i])
			break;
		soft_vp_start(c->vcpus[i], c->td);
		c->vcpu_count++;
	}
	return c->td->root && c->vcpu_count == vcpus ? 0 : -ENOMEM;
}

/* "level:state", or "-" where the GPA is none. */
static void say_state(struct context *c, u64 gpa, char *text, size_t size)
{
	struct soft_walk walk;

	if (gpa >= SOFT_SHARED_BIT) {
		strscpy(text, "-", size);
		return;
	}
	walk = soft_walk(c->td, gpa, SOFT_LEVEL_4K);
	snprintf(text, size, "%d:%d", walk.level, soft_arch_state(walk.value));
}

static void say(struct context *c, u64 gpa, const char *what)
{
	char state[16];

	say_state(c, gpa, state, sizeof(state));
	c->length = scnprintf(c->result, sizeof(c->result), "%s %s\n", what, state);
}

static void say_env(struct context *c)
{
	c->length = scnprintf(c->result, sizeof(c->result), "(env)\n");
}

static void say_complete(struct context *c, u64 gpa, u64 rax, u64 rcx, u64 rdx)
{
	char what[80];

	snprintf(what, sizeof(what), "complete 0x%016llx 0x%llx 0x%llx", rax, rcx, rdx);
	say(c, gpa, what);
}

static void say_result(struct context *c, u64 gpa, const struct soft_result *result)
{
	char what[80];

	switch (result->outcome) {
	case SOFT_DONE:
		say_complete(c, gpa, result->rax, result->rcx, result->rdx);
		return;
	case SOFT_EXIT:
		snprintf(what, sizeof(what), "td_exit 0x%llx 0x%llx 0x%016llx",
			 result->exit_gpa, result->exit_qual, result->eeq);
		break;
	case SOFT_INJECT:
		snprintf(what, sizeof(what), "inject %d", result->vector);
		break;
	case SOFT_RESTART:
		strscpy(what, "tdcall_restart");
		break;
	case SOFT_ACCESS_OK:
		strscpy(what, "access_ok");
		break;
	}
	say(c, gpa, what);
}

/* Calls of the host that name a place.  @hpa: as given, or the GPA. */
static int op_mem(struct context *c, const char *op, u64 gpa, u64 level, u64 hpa)
{
	struct tdx_module_args a = { .rcx = gpa | level, .r8 = hpa };
	struct soft_walk walk;
	u64 *page, rax;

	if (!strcmp(op, "blockleaf")) {
		walk = soft_walk(c->td, gpa & ~0xfffULL, level);
		if (walk.level == level && (soft_state(walk.value) == SOFT_TABLE ||
					    soft_state(walk.value) == SOFT_TABLE_BLOCKED)) {
			say(c, gpa, "skip");
			return 0;
		}
		rax = soft_range_block(c->td, &a);
	} else if (!strcmp(op, "block")) {
		rax = soft_range_block(c->td, &a);
	} else if (!strcmp(op, "aug")) {
		rax = soft_page_aug(c->td, &a);
	} else if (!strcmp(op, "add")) {
		rax = soft_page_add(c->td, &a);
	} else if (!strcmp(op, "remove")) {
		rax = soft_page_remove(c->td, &a);
	} else {
		page = table_new(c);
		if (!page)
			return -ENOMEM;
		if (!strcmp(op, "sept_add"))
			rax = soft_sept_add(c->td, &a, page);
		else if (!strcmp(op, "demote"))
			rax = soft_page_demote(c->td, &a, page);
		else
			return -EINVAL;
	}
	say_complete(c, gpa & ~0xfffULL, rax, a.rcx, a.rdx);
	return 0;
}

static void enter(struct soft_vp *vp)
{
	bool flush;

	if (!vp->inside)
		soft_vp_enter(vp, &flush);
}

/* finalize, kick, leave, enter; all vCPUs where none is named. */
static int op_vcpus(struct context *c, const char *op, const char *which)
{
	unsigned int only = UINT_MAX, i;

	if (which && kstrtouint(which, 0, &only))
		return -EINVAL;
	if (!strcmp(op, "finalize"))
		c->td->op_state = SOFT_RUNNABLE;
	for (i = 0; i < c->vcpu_count; i++) {
		if (which && i != only)
			continue;
		/* A kick finds only who is inside. */
		if (!strcmp(op, "kick") && !c->vcpus[i]->inside)
			continue;
		if (!strcmp(op, "kick") || !strcmp(op, "leave"))
			soft_vp_exit(c->vcpus[i]);
		if (strcmp(op, "leave"))
			enter(c->vcpus[i]);
	}
	say_env(c);
	return 0;
}

static int op_set(struct context *c, const char *what, u64 value)
{
	if (!strcmp(what, "opstate"))
		c->td->op_state = value;
	else if (!strcmp(what, "lifecycle"))
		c->td->lifecycle = value;
	else if (!strcmp(what, "fatal"))
		c->td->fatal = value;
	else
		return -EINVAL;
	say_env(c);
	return 0;
}

static int op_lock(struct context *c, const char *what)
{
	static const struct {
		const char *name;
		size_t at;
		bool exclusive;
	} locks[] = {
		{ "tree_ex", offsetof(struct soft_td, tree), true },
		{ "tree_sh", offsetof(struct soft_td, tree), false },
		{ "epoch_ex", offsetof(struct soft_td, epoch_lock), true },
		{ "epoch_sh", offsetof(struct soft_td, epoch_lock), false },
		{ "opstate_ex", offsetof(struct soft_td, op), true },
		{ "tdr_ex", offsetof(struct soft_td, tdr), true },
		{ "tdr_sh", offsetof(struct soft_td, tdr), false },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(locks); i++) {
		if (strcmp(what, locks[i].name))
			continue;
		soft_trylock((void *)c->td + locks[i].at, locks[i].exclusive);
		say_env(c);
		return 0;
	}
	return -EINVAL;
}

/* Somebody else holds the entry where the walk ends. */
static int op_lock_entry(struct context *c, bool priority, u64 gpa, u64 level)
{
	struct soft_walk walk = soft_walk(c->td, gpa, level);

	*walk.entry |= priority ? SE_HOST_PRIORITY : SE_LOCKED;
	say_env(c);
	return 0;
}

static int op_guest(struct context *c, const char *op, u64 gpa, const char *how)
{
	struct soft_result result;
	u64 level = 0;

	if (!strcmp(op, "access")) {
		result = soft_access(c->td, c->vcpus[0], gpa, how && *how == 'w');
	} else {
		if (how && kstrtou64(how, 0, &level))
			return -EINVAL;
		result = strcmp(op, "accept") ? soft_attr_rd(c->td, gpa | level) :
						soft_accept(c->td, gpa | level);
	}
	say_result(c, gpa, &result);
	return 0;
}

static int number(const char *text, u64 *value)
{
	return text ? kstrtou64(text, 0, value) : -EINVAL;
}

static int perform(struct context *c, char **word)
{
	u64 a = 0, b = 0, hpa;
	char *op = word[0];

	if (!op)
		return -EINVAL;
	if (!strcmp(op, "new"))
		return number(word[1], &a) ?: number(word[2], &b) ?: op_new(c, a, b);
	if (!c->td)
		return -ENODEV;
	if (!strcmp(op, "track")) {
		say_complete(c, SOFT_SHARED_BIT, soft_track(c->td), 0, 0);
		return 0;
	}
	if (!strcmp(op, "finalize") || !strcmp(op, "kick") || !strcmp(op, "leave") ||
	    !strcmp(op, "enter"))
		return op_vcpus(c, op, word[1]);
	if (!word[1])
		return -EINVAL;
	if (!strcmp(op, "intr")) {
		say_env(c);
		return kstrtos32(word[1], 0, &c->td->interrupt_in);
	}
	if (!strcmp(op, "set"))
		return number(word[2], &a) ?: op_set(c, word[1], a);
	if (!strcmp(op, "lock")) {
		if (!word[2])
			return op_lock(c, word[1]);
		return number(word[2], &a) ?: number(word[3], &b) ?:
		       op_lock_entry(c, !strcmp(word[1], "hp"), a, b);
	}
	if (number(word[1], &a))
		return -EINVAL;
	if (!strcmp(op, "accept") || !strcmp(op, "attr_rd") || !strcmp(op, "access"))
		return op_guest(c, op, a, word[2]);
	if (number(word[2], &b))
		return -EINVAL;
	hpa = a;
	if (word[3] && number(word[3], &hpa))
		return -EINVAL;
	return op_mem(c, op, a, b, hpa);
}

static ssize_t vectors_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct context *c = file->private_data;
	char line[128], *rest = line, *word[WORDS_MAX] = {};
	int words = 0, r;

	if (size >= sizeof(line))
		return -E2BIG;
	if (copy_from_user(line, from, size))
		return -EFAULT;
	line[size] = 0;
	rest = strim(line);
	while (words < WORDS_MAX - 1 && (word[words] = strsep(&rest, " ")) != NULL)
		words++;

	mutex_lock(&c->lock);
	c->length = 0;
	r = perform(c, word);
	if (!r && !c->length)
		say_env(c);
	mutex_unlock(&c->lock);
	return r ?: size;
}

/* The result of the last line, from its start with each read. */
static ssize_t vectors_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct context *c = file->private_data;
	ssize_t r;

	mutex_lock(&c->lock);
	r = min(size, c->length);
	if (copy_to_user(to, c->result, r))
		r = -EFAULT;
	mutex_unlock(&c->lock);
	return r;
}

static int vectors_open(struct inode *inode, struct file *file)
{
	struct context *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return -ENOMEM;
	mutex_init(&c->lock);
	INIT_LIST_HEAD(&c->tables);
	file->private_data = c;
	return 0;
}

static int vectors_release(struct inode *inode, struct file *file)
{
	struct context *c = file->private_data;

	context_clear(c);
	kfree(c);
	return 0;
}

const struct file_operations softtdx_vectors_fops = {
	.owner = THIS_MODULE,
	.open = vectors_open,
	.read = vectors_read,
	.write = vectors_write,
	.release = vectors_release,
};
