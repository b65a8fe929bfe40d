# Exception and interrupt entries. See trap.rs for what is done about each.

# All general registers in the order of protocol::tdcall::reg, on top of vector and error code. The
# stack pointer among them is the interrupted one.
.macro push_registers
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rdi
    pushq %rsi
    pushq %rbp
    pushq 128(%rsp)
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
.endm

.macro entry vector, has_error, handler
entry_\vector:
    .if !\has_error
    pushq $0
    .endif
    pushq $\vector
    jmp \handler
.endm

.text

entry 0, 0, fatal
entry 1, 0, fatal
entry 2, 0, fatal
entry 3, 0, fatal
entry 4, 0, fatal
entry 5, 0, fatal
entry 6, 0, working
entry 7, 0, fatal
entry 8, 1, fatal
entry 9, 0, fatal
entry 10, 1, fatal
entry 11, 1, fatal
entry 12, 1, fatal
entry 13, 1, fatal
entry 14, 1, working
entry 15, 0, fatal
entry 16, 0, fatal
entry 17, 1, fatal
entry 18, 0, fatal
entry 19, 0, fatal
entry 20, 0, working
entry 21, 1, fatal
entry 22, 0, fatal
entry 23, 0, fatal
entry 24, 0, fatal
entry 25, 0, fatal
entry 26, 0, fatal
entry 27, 0, fatal
entry 28, 0, fatal
entry 29, 1, fatal
entry 30, 1, fatal
entry 31, 0, fatal

# Exceptions whose handler may return. The interrupted code may be in the middle of vector
# arithmetic.
working:
    push_registers
    movq %rsp, %rbp
    movq %rsp, %rdi
    subq $512, %rsp
    andq $-16, %rsp
    fxsave64 (%rsp)
    cld
    call {exception}
    fxrstor64 (%rsp)
    movq %rbp, %rsp
    popq %rax
    popq %rcx
    popq %rdx
    popq %rbx
    addq $8, %rsp
    popq %rbp
    popq %rsi
    popq %rdi
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    addq $16, %rsp
    iretq

# Exceptions that end the guest.
fatal:
    push_registers
    cld
    movq %rsp, %rdi
    leaq {fatal_exception}(%rip), %rsi

# fn on_panic_stack(argument, function): the first to come calls function(argument) on a stack that
# is big enough; whoever comes later stops.
.globl on_panic_stack
on_panic_stack:
    cli
    movl $1, %eax
    xchgl %eax, panic_stack_taken(%rip)
    testl %eax, %eax
    jnz 1f
    leaq panic_stack_top(%rip), %rsp
    call *%rsi
1:  call {halt}
    ud2

# Interrupts only end a HLT.
.globl interrupt_pic
interrupt_pic:
    pushq %rax
    movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq

.globl interrupt_apic
interrupt_apic:
    pushq %rax
    movl ${apic_eoi}, %eax
    movl $0, (%rax)
    popq %rax
.globl interrupt_spurious
interrupt_spurious:
    iretq

.section .rodata.exception_entries, "a"
.balign 8
.globl exception_entries
exception_entries:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .quad entry_\vector
    .endr

.section .bss.panic_stack, "aw", @nobits
.balign 16
    .skip 12 * 1024
panic_stack_top:
panic_stack_taken:
    .long 0

.text
