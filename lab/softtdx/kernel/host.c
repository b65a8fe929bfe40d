// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a TDX host says of itself, said here: the CPU flag, KVM's parameters, the
 * module's version, and the lines of the kernel log.
 */
#define pr_fmt(fmt) "virt/tdx: " fmt

#include <linux/device/faux.h>
#include <linux/module.h>
#include <linux/sysfs.h>
#include <asm/cpufeature.h>
#include <asm/processor.h>

#include "softtdx/kvm_tdx.h"

static struct kobject *kvm_intel, *parameters;

static ssize_t tdx_show(struct kobject *kobj, struct kobj_attribute *attr, char *text)
{
	return sysfs_emit(text, "%s\n", softtdx_no_tdx() ? "N" : "Y");
}

static ssize_t tdx_huge_page_show(struct kobject *kobj, struct kobj_attribute *attr, char *text)
{
	return sysfs_emit(text, "%s\n", READ_ONCE(softtdx_design)->huge ? "Y" : "N");
}

static struct kobj_attribute tdx_attr = __ATTR_RO(tdx);
static struct kobj_attribute tdx_huge_page_attr = __ATTR_RO(tdx_huge_page);

static const struct attribute *const attributes[] = {
	&tdx_attr.attr,
	&tdx_huge_page_attr.attr,
	NULL,
};

/* As the driver tdx-host has it; that of the module whose answers are played. */
static ssize_t version_show(struct device *dev, struct device_attribute *attr, char *text)
{
	const struct tdx_sys_info_version *version = &soft_sysinfo()->version;

	return sysfs_emit(text, TDX_VERSION_FMT "\n", version->major_version,
			  version->minor_version, version->update_version);
}

static DEVICE_ATTR_RO(version);

static struct attribute *tdx_host_attrs[] = {
	&dev_attr_version.attr,
	NULL,
};
ATTRIBUTE_GROUPS(tdx_host);

static struct faux_device *tdx_host;

void softtdx_host_setup(void)
{
	const struct tdx_sys_info_version *version = &soft_sysinfo()->version;
	struct kobject *modules = THIS_MODULE->mkobj.kobj.parent;
	int cpu;

	for_each_possible_cpu(cpu)
		set_cpu_cap(&cpu_data(cpu), X86_FEATURE_TDX_HOST_PLATFORM);

	/* /sys/module/kvm_intel/parameters: not a module, but where people look. */
	kvm_intel = kobject_create_and_add("kvm_intel", modules);
	if (kvm_intel)
		parameters = kobject_create_and_add("parameters", kvm_intel);
	if (!parameters || sysfs_create_files(parameters, attributes))
		pr_warn("no /sys/module/kvm_intel/parameters\n");

	tdx_host = faux_device_create_with_groups("tdx_host", NULL, NULL, tdx_host_groups);
	if (!tdx_host)
		pr_warn("no /sys/devices/faux/tdx_host\n");

	pr_info("BIOS enabled: private KeyID range [1, 64)\n");
	pr_info("Module version: " TDX_VERSION_FMT "\n", version->major_version,
		version->minor_version, version->update_version);
	pr_info("TDX-Module initialized\n");
	pr_warn("REHEARSAL: the TDX module is played by softtdx; this is not TDX\n");
}

void softtdx_host_unsetup(void)
{
	if (tdx_host)
		faux_device_destroy(tdx_host);
	tdx_host = NULL;
	kobject_put(parameters);
	kobject_put(kvm_intel);
	parameters = NULL;
	kvm_intel = NULL;
}
