# From the reset vector to 64-bit mode, for real mode (TCG, KVM) and for the 32-bit protected mode
# in which a TD starts. Every address in the ROM is written as "label + ROM", since the image is
# linked for its copy in RAM.
#
# Registers on the way, until `start` is called: ESI = vCPU index, EDI = address of the TD_HOB,
# EBX = GPA width; the last two are 0 where there is no TD.

.set ROM, 0xffff0000 - {image_copy}

.set CR0_PE, 1 << 0
.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2
.set CR0_TS, 1 << 3
.set CR0_NE, 1 << 5
.set CR0_NW, 1 << 29
.set CR0_CD, 1 << 30
.set CR0_PG, 1 << 31
.set CR4_PAE, 1 << 5
.set CR4_OSFXSR, 1 << 9
.set CR4_OSXMMEXCPT, 1 << 10
.set MSR_EFER, 0xc0000080
.set EFER_LME_BIT, 8

.set PTE_PRESENT_WRITE, 0x3
.set PTE_LEAF, 0x83

# The same 16 bytes in both modes: the first three instructions mean the same in both.
.section .reset, "ax"
.globl reset_vector
reset_vector:
.code16
    movl %cr0, %eax
    testb $1, %al
    jz 1f
.code32
    .byte 0xe9
    .long td_entry - . - 4
.code16
1:  .byte 0xe9
    .word real_entry - . - 2
    .byte 0

.section .boot, "ax"
boot_page:

# An application processor after INIT-SIPI with vector 0xff: the alias of this page below 1 MiB.
# The boot processor has copied the image before it sends the SIPI.
.code16
    cli
    lgdtl %cs:gdt_pointer_ram - boot_page
    movl %cr0, %eax
    andl $~(CR0_NW | CR0_CD), %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $0x08, $ap_protected

# The boot processor in real mode; CS maps the last 64 KiB.
real_entry:
    cli
    lgdtl %cs:gdt_pointer_rom - boot_page + 0xf000
    movl %cr0, %eax
    andl $~(CR0_NW | CR0_CD), %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $0x08, $real_protected + ROM

.code32
real_protected:
    xorl %esi, %esi
    xorl %ecx, %ecx
    xorl %ebx, %ebx
    jmp load_segments

# Every vCPU of a TD. No descriptor table is loaded yet. ECX = TD_HOB.
td_entry:
    cli
    lgdtl gdt_pointer_rom + ROM
    ljmpl $0x08, $load_segments + ROM

load_segments:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl %ecx, %ebp
    testl %esi, %esi
    jz copy_image

# Another vCPU of a TD waits until the copy is there.
1:  pause
    cmpl $0, copied
    je 1b
    movl %ebp, %edi
    movl $enter_long_mode, %eax
    jmp *%eax

copy_image:
    cld
    movl $0xffff0000, %esi
    movl ${image_copy}, %edi
    movl ${image_bytes} / 4, %ecx
    rep movsl
    xorl %esi, %esi
    movl %ebp, %edi
    movl $map_identity, %eax
    jmp *%eax

# From here on the copy runs.

# Maps 0..4 GiB one to one: with four 1G pages, or with four directories of 2M pages where the
# processor has no 1G pages. EBX is the GPA width, which CPUID overwrites.
map_identity:
    movl %ebx, %ebp
    movl $0x80000001, %eax
    cpuid
    movl %ebp, %ebx
    movl ${pml4} + 0x1000 + PTE_PRESENT_WRITE, {pml4}
    btl $26, %edx
    jnc 3f
    movl $PTE_LEAF, %eax
    movl ${pml4} + 0x1000, %ecx
2:  movl %eax, (%ecx)
    addl $0x40000000, %eax
    addl $8, %ecx
    cmpl ${pml4} + 0x1020, %ecx
    jne 2b
    jmp 6f
3:  movl ${pml4} + 0x2000 + PTE_PRESENT_WRITE, %eax
    movl ${pml4} + 0x1000, %ecx
4:  movl %eax, (%ecx)
    addl $0x1000, %eax
    addl $8, %ecx
    cmpl ${pml4} + 0x1020, %ecx
    jne 4b
    movl $PTE_LEAF, %eax
    movl ${pml4} + 0x2000, %ecx
5:  movl %eax, (%ecx)
    addl $0x200000, %eax
    addl $8, %ecx
    cmpl ${pml4} + 0x6000, %ecx
    jne 5b
6:  movl $1, copied
    jmp enter_long_mode

# An application processor started by SIPI: its index is its APIC id.
ap_protected:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl $1, %eax
    cpuid
    movl %ebx, %esi
    shrl $24, %esi
    xorl %edi, %edi
    xorl %ebx, %ebx

enter_long_mode:
    movl ${pml4}, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
    movl %eax, %cr4
    # In a TD, LME is set already and the guest may not change it.
    movl $MSR_EFER, %ecx
    rdmsr
    btsl $EFER_LME_BIT, %eax
    jc 1f
    wrmsr
1:  movl %cr0, %eax
    andl $~(CR0_EM | CR0_TS), %eax
    orl $(CR0_PG | CR0_NE | CR0_MP | CR0_PE), %eax
    movl %eax, %cr0
    ljmpl $0x18, $long_mode

.code64
long_mode:
    # An index without a stack: note it for the boot processor and stop.
    cmpl ${max_vcpus}, %esi
    jb 1f
    movl %esi, {stray}
2:  cli
    hlt
    jmp 2b
1:  movl %esi, %eax
    imulq ${area_bytes}, %rax, %rax
    leaq {areas} + {main_stack_top}(%rax), %rsp
    xorl %ebp, %ebp
    movl %edi, %eax
    movl %esi, %edi
    movl %eax, %esi
    movl %ebx, %edx
    call {start}
    ud2

# Accessed bits are set, because a processor that sets one in ROM never gets ahead.
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_end:
gdt_pointer_rom:
    .word gdt_end - gdt - 1
    .long gdt + ROM
gdt_pointer_ram:
    .word gdt_end - gdt - 1
    .long gdt

.section .bss.copied, "aw", @nobits
.balign 4
copied:
    .long 0

.text
