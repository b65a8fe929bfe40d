# Puts every vCPU into the state in which a TD starts, and jumps to where the image's reset vector
# leads in that state. Lies in front of the image, 128 KiB below 4 GiB; seen by the processor at
# its alias 0xe0000, where the boot processor comes from the reset vector and the others by SIPI.

.set ALIAS, 0xe0000
.set APIC_COMMAND, 0xfee00300
.set MSR_EFER, 0xc0000080

.section .rodata.td_start, "a"
.globl td_start
td_start:
.code16
    cli
    lgdtl %cs:td_gdt_pointer - td_start
    movl $0x21, %eax
    movl %eax, %cr0
    ljmpl $0x08, $ALIAS + (1f - td_start)

.code32
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $MSR_EFER, %ecx
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x40, %eax
    movl %eax, %cr4
    movl $1, %eax
    cpuid
    movl %ebx, %esi
    shrl $24, %esi
    movl %eax, %ebp
    testl %esi, %esi
    jnz 2f

    # The boot processor plays the VMM: it writes the TD_HOB and starts the others.
    movl $ALIAS + {hob_offset}, %esi
    movl ${hob}, %edi
    movl ${hob_bytes} / 4, %ecx
    cld
    rep movsl
    xorl %esi, %esi
    movl $0xc4500, APIC_COMMAND
    movl $0xc4600 + ALIAS / 4096, APIC_COMMAND

2:  movl %ebp, %edx
    movl ${hob}, %ecx
    movl ALIAS + {gpa_width_offset}, %ebx
    xorl %eax, %eax
    xorl %edi, %edi
    xorl %ebp, %ebp
    jmp *ALIAS + {entry_offset}

.balign 8
td_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
td_gdt_pointer:
    .word td_gdt_pointer - td_gdt - 1
    .long ALIAS + (td_gdt - td_start)
.globl td_end
td_end:
.code64
.text
