//! QEMU's own words when it cannot make a TD, and what to do about each.
//!
//! Source: error texts of QEMU 10.1 to 11.1 (accel/kvm/kvm-all.c, target/i386/kvm/tdx.c,
//! hw/i386/tdvf.c) and of `arch/x86/kvm/vmx/tdx.c`.

/// What a person can do where QEMU's stderr contains a text. The first that fits counts.
const ADVICE: [(&str, &str); 20] = [
    (
        "vm-type TDX not supported by KVM",
        "KVM runs no TDs here: boot with kvm_intel.tdx=1 nohibernate, then see `tdxlab doctor`",
    ),
    (
        "cannot set up private guest memory for tdx-guest: KVM required",
        "the QEMU in use runs TCG for a TD; use one with KVM (--qemu, TDXLAB_QEMU)",
    ),
    (
        "invalid object type: tdx-guest",
        "this QEMU is older than 10.1 or was built without TDX; name another with TDXLAB_QEMU",
    ),
    (
        "could not load PC BIOS",
        "the image is missing or no multiple of 64 KiB: rebuild tdxlab, and check memory limits",
    ),
    (
        "Cannot find TDX_METADATA_OFFSET_GUID",
        "the image has no TDVF table: it is not the lab's micro guest",
    ),
    (
        "failed to parse TDVF",
        "the image's TDVF metadata is damaged: rebuild tdxlab",
    ),
    (
        "TDVF metadata doesn't specify TD_HOB location",
        "the image's TDVF metadata is damaged: rebuild tdxlab",
    ),
    (
        "Failed to accept memory for TDVF section",
        "a range of guest.image lies outside of RAM, or in two pieces of it",
    ),
    (
        "unsupported section type",
        "the image's TDVF metadata is damaged: rebuild tdxlab",
    ),
    (
        "Named cpu model is not supported for TDX",
        "a TD needs -cpu host; report this with the command line in qemu.sh",
    ),
    (
        "TDX VM requires kernel_irqchip to be split",
        "report this with the command line in qemu.sh",
    ),
    (
        "discard currently blocked",
        "something holds guest memory: a TD cannot have assigned devices that block discard",
    ),
    (
        "hardware RNG",
        "the processor's random number generator gave nothing for long; try again later",
    ),
    (
        "TDX ioctl KVM_TDX_INIT_VM failed",
        "no private key id is left (each running TD holds one), or attributes are not supported: \
         end other TDs, then see dmesg",
    ),
    (
        "TDX ioctl KVM_TDX_INIT_MEM_REGION failed",
        "the initial image could not be added: see dmesg; with EBUSY or EIO, another TD or a \
         kernel older than 6.19 got in the way",
    ),
    (
        "TDX ioctl KVM_TDX_",
        "KVM refused a step of making the TD: the text names it; see dmesg for the TDX module's \
         status code",
    ),
    (
        "KVM_CREATE_GUEST_MEMFD",
        "KVM could not make private memory: see dmesg and free memory",
    ),
    (
        "Cannot allocate memory",
        "the machine is out of memory for a guest of this size",
    ),
    (
        "Could not access KVM kernel module",
        "/dev/kvm is missing or may not be opened by this user: load kvm_intel, join group kvm",
    ),
    (
        "Permission denied",
        "this user may not do what QEMU does: see the line itself, or run as root",
    ),
];

/// The line of `stderr` that says why QEMU gave up, and what to do about it.
pub fn explain(stderr: &str) -> Option<(String, &'static str)> {
    ADVICE.iter().find_map(|&(text, advice)| {
        let line = stderr.lines().find(|line| line.contains(text))?;
        // Everything before the last program name is of no help.
        let line = line
            .rsplit_once("qemu-system-x86_64: ")
            .map_or(line, |(_, line)| line);
        Some((line.trim().to_owned(), advice))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "qemu-system-x86_64: -accel kvm: vm-type TDX not supported by KVM\n",
        "kvm_intel.tdx=1"
    )]
    #[case(
        "qemu-system-x86_64: cannot set up private guest memory for tdx-guest: KVM required\n",
        "TCG"
    )]
    #[case("qemu: could not load PC BIOS '/proc/self/fd/9'\n", "64 KiB")]
    #[case(
        "Cannot find TDX_METADATA_OFFSET_GUID\nfailed to parse TDVF for TDX VM\n",
        "no TDVF table"
    )]
    #[case(
        "qemu-system-x86_64: TDX ioctl KVM_TDX_INIT_VM failed, hw_errors: 0xc000080200000000: \
         No space left on device\n",
        "key id"
    )]
    #[case(
        "qemu-system-x86_64: TDX ioctl KVM_TDX_FINALIZE_VM failed, hw_errors: 0x0\n",
        "refused a step"
    )]
    #[case(
        "qemu-system-x86_64: -object: invalid object type: tdx-guest\n",
        "10.1"
    )]
    fn each_text_says_what_to_do(#[case] stderr: &str, #[case] advice: &str) {
        let (line, said) = explain(stderr).unwrap();
        assert!(said.contains(advice), "{said}");
        assert!(
            !line.contains('\n') && !line.starts_with("qemu-system"),
            "{line}"
        );
    }

    #[test]
    fn an_unknown_text_is_left_as_it_is() {
        assert_eq!(explain("qemu-system-x86_64: something new\n"), None);
        assert_eq!(explain(""), None);
    }
}
