//! From the reset vector to [`crate::start`]; the code is in `boot.s`.

use core::arch::global_asm;
use core::sync::atomic::AtomicU32;

use tdxlab_protocol::layout;

use crate::vcpu;

/// Index of a vCPU that has come up although there is no stack for it; 0 where there was none.
pub(crate) static STRAY: AtomicU32 = AtomicU32::new(0);

global_asm!(
    include_str!("boot.s"),
    image_copy = const layout::IMAGE_COPY,
    image_bytes = const layout::IMAGE_BYTES,
    pml4 = const layout::PML4,
    max_vcpus = const layout::MAX_VCPUS,
    area_bytes = const vcpu::AREA_BYTES,
    main_stack_top = const vcpu::MAIN_STACK_BYTES,
    areas = sym vcpu::AREAS,
    stray = sym STRAY,
    start = sym crate::start,
    options(att_syntax),
);
