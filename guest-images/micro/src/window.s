# Accesses to memory through a window. A #VE in any of them goes on at `access_failed`, so between
# `accesses_begin` and `accesses_end` the stack holds nothing but the return address, and
# registers that belong to the caller are not changed. All return 0 when done.
#
# The first access to a page is made by one of several copies of its instruction, whose number comes
# last; window.rs says why. A copy has 16 bytes.
.macro to_copy number
    shlq $4, \number
    leaq 1f(%rip), %rax
    addq \number, %rax
    jmp *%rax
    .balign 16
1:
.endm

.text
.globl accesses_begin
accesses_begin:

# fn (address, value: &mut u64, copy): loads a word.
.globl access_load
access_load:
    to_copy %rdx
    .rept {copies}
    .balign 16
    movq (%rdi), %rax
    jmp 2f
    .endr
2:  movq %rax, (%rsi)
    xorl %eax, %eax
    ret

# fn (address, copy): a write that leaves the content alone.
.globl access_add_zero
access_add_zero:
    to_copy %rsi
    .rept {copies}
    .balign 16
    lock addq $0, (%rdi)
    jmp 2f
    .endr
2:  xorl %eax, %eax
    ret

# fn (address, first, copy): writes a page of words that rise by one from `first`.
.globl access_fill
access_fill:
    to_copy %rdx
    .rept {copies}
    .balign 16
    movq %rsi, (%rdi)
    jmp 2f
    .endr
2:  leaq 4096(%rdi), %rdx
1:  movq %rsi, (%rdi)
    leaq 1(%rsi), %rax
    movq %rax, 8(%rdi)
    leaq 2(%rsi), %rax
    movq %rax, 16(%rdi)
    leaq 3(%rsi), %rax
    movq %rax, 24(%rdi)
    addq $4, %rsi
    addq $32, %rdi
    cmpq %rdx, %rdi
    jne 1b
    xorl %eax, %eax
    ret

# fn (address, first, step, matching: &mut u64): counts the words of a page from its start that
# are `first`, `first + step`, ... until one is not. Goes by eight words and one branch, because an
# emulator pays for branches; the eight with a word that differs are counted one by one.
.globl access_match
access_match:
    leaq 4096(%rdi), %r8
    movq %rdi, %r9
1:  movq %rsi, %r11
    xorl %r10d, %r10d
    .irp offset, 0, 8, 16, 24, 32, 40, 48, 56
    movq \offset(%rdi), %rax
    xorq %r11, %rax
    orq %rax, %r10
    addq %rdx, %r11
    .endr
    testq %r10, %r10
    jnz 2f
    movq %r11, %rsi
    addq $64, %rdi
    cmpq %r8, %rdi
    jne 1b
    jmp 3f
2:  cmpq %rsi, (%rdi)
    jne 3f
    addq %rdx, %rsi
    addq $8, %rdi
    cmpq %r8, %rdi
    jne 2b
3:  subq %r9, %rdi
    shrq $3, %rdi
    movq %rdi, (%rcx)
    xorl %eax, %eax
    ret

.globl accesses_end
accesses_end:

.globl access_failed
access_failed:
    movl $1, %eax
    ret
