/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Seeded bugs: one at a time, chosen by the parameter softtdx_bug of kvm.ko.
 * Each is one use of softtdx_bug() at the place where KVM would have it.
 */
#ifndef __KVM_SOFTTDX_BUGS_H
#define __KVM_SOFTTDX_BUGS_H

#include <linux/compiler.h>

/* Name in C, name of the parameter; what each does is said where it is looked at. */
#define SOFTTDX_BUGS(bug)						\
	bug(HEAD_NOT_SPLIT, "head-not-split")				\
	bug(TAIL_NOT_SPLIT, "tail-not-split")				\
	bug(TAIL_OFF_BY_ONE, "tail-off-by-one")				\
	bug(COVERED_LEAVES_SPLIT, "covered-leaves-split")		\
	bug(NEXT_LEAF_SPLIT, "next-leaf-split")				\
	bug(SPLIT_BY_FILE_OFFSET, "split-by-file-offset")		\
	bug(SPLIT_ONLY_FIRST_SLOT, "split-only-first-slot")		\
	bug(SPLIT_WRONG_ROOT, "split-wrong-root")			\
	bug(SPLIT_AFTER_ZAP, "split-after-zap")				\
	bug(OVER_ZAP, "over-zap")					\
	bug(ZAP_FROM_LEAF_START, "zap-from-leaf-start")			\
	bug(ZAP_SHORT, "zap-short")					\
	bug(ERROR_AS_ONE, "error-as-one")				\
	bug(ERROR_SWALLOWED, "error-swallowed")				\
	bug(ERROR_AFTER_ZAP, "error-after-zap")				\
	bug(HOLE_NOT_ZAPPED, "hole-not-zapped")				\
	bug(HOLE_NOT_TRUNCATED, "hole-not-truncated")			\
	bug(HOLE_TAKES_FOLIO, "hole-takes-folio")			\
	bug(INHIBIT_MISSING, "inhibit-missing")				\
	bug(INHIBIT_WRONG_LEVEL, "inhibit-wrong-level")			\
	bug(INHIBIT_WRONG_RANGE, "inhibit-wrong-range")			\
	bug(INHIBIT_BEFORE_SPLIT, "inhibit-before-split")		\
	bug(ACCEPT_LEVEL_IGNORED, "accept-level-ignored")		\
	bug(ACCEPT_SPLITS_NEIGHBOUR, "accept-splits-neighbour")		\
	bug(PROMOTION, "promotion")					\
	bug(SEPT_NOT_REMOVED, "sept-not-removed")			\
	bug(DEMOTE_LOST, "demote-lost")					\
	bug(DEMOTE_WITHOUT_TRACK, "demote-without-track")		\
	bug(REMOVE_WITHOUT_TRACK, "remove-without-track")		\
	bug(LEAF_LEFT_BLOCKED, "leaf-left-blocked")			\
	bug(PARTS_NOT_COUNTED, "parts-not-counted")			\
	bug(LEAF_STAYS_COUNTED, "leaf-stays-counted")			\
	bug(EVENT_MISSING, "event-missing")				\
	bug(EVENT_TWICE, "event-twice")					\
	bug(CONVERSION_NOT_SPLIT, "conversion-not-split")		\
	bug(PAGE_NOT_LOGGED, "page-not-logged")

#define SOFTTDX_BUG_ENUM(id, name)	SOFTTDX_BUG_##id,
enum softtdx_bug {
	SOFTTDX_BUG_NONE,
	SOFTTDX_BUGS(SOFTTDX_BUG_ENUM)
};

#undef SOFTTDX_BUG_ENUM

extern enum softtdx_bug softtdx_seeded;

#define softtdx_bug(id)	unlikely(READ_ONCE(softtdx_seeded) == SOFTTDX_BUG_##id)

#endif /* __KVM_SOFTTDX_BUGS_H */
