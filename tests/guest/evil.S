# A guest that does whatever a test tells it: an interpreter at CPL 0 in 64-bit mode, on the
# identity map of the first 4 GiB that the 64-bit Linux protocol provides.
#
# The script is the initial RAM disk. It is an array of operations of 32 bytes, followed by data:
#
#   0  u8   operation * 4 + width, where width 0..3 stands for 1, 2, 4, 8 bytes
#   1  u8   number of the variable that is added to `a`   (variable 0 is always 0)
#   2  u8   number of the variable that is added to `b`
#   3  u8   number of the variable that is set
#   4  u32  aux
#   8  u64  a
#   16 u64  b
#   24 u64  c
#
# Results are gathered in memory and sent over the serial port, as raw bytes, by `flush`.
# Only plain instructions are used: where KVM emulates the guest's kernel, others are missing.

        .set COM1, 0x3f8
        .set LINE_STATUS, 0x3fd
        .set DATA_READY, 1
        .set RAMDISK_IMAGE, 0x218               # boot_params
        .set OPERATION_SIZE, 32
        .set RESULTS, 0x200000
        .set NEEDS_RESET, 0x40

# Registers: rbx script, rbp next operation, r14 variables, r15 end of the results.
# Operands of an operation: rdi a, rsi b, rcx c, edx aux, r8 address of the variable to set.

        .text
        .globl _start
_start:
        mov     RAMDISK_IMAGE(%rsi), %ebx
        mov     %rbx, %rbp
        mov     $variables, %r14
        mov     $RESULTS, %r15

next:
        movzbl  0(%rbp), %eax
        movzbl  1(%rbp), %ecx
        mov     8(%rbp), %rdi
        add     (%r14,%rcx,8), %rdi
        movzbl  2(%rbp), %ecx
        mov     16(%rbp), %rsi
        add     (%r14,%rcx,8), %rsi
        movzbl  3(%rbp), %ecx
        lea     (%r14,%rcx,8), %r8
        mov     24(%rbp), %rcx
        mov     4(%rbp), %edx
        add     $OPERATION_SIZE, %rbp
        jmp     *operations(,%rax,8)

# Loads with zero extension, stores and port accesses of each width.
        .macro  load1 from
        movzbl  \from, %eax
        .endm
        .macro  load2 from
        movzwl  \from, %eax
        .endm
        .macro  load4 from
        mov     \from, %eax
        .endm
        .macro  load8 from
        mov     \from, %rax
        .endm
        .macro  store1 to
        mov     %al, \to
        .endm
        .macro  store2 to
        mov     %ax, \to
        .endm
        .macro  store4 to
        mov     %eax, \to
        .endm
        .macro  store8 to
        mov     %rax, \to
        .endm
        .macro  in1
        xor     %eax, %eax
        in      %dx, %al
        .endm
        .macro  in2
        xor     %eax, %eax
        in      %dx, %ax
        .endm
        .macro  in4
        in      %dx, %eax
        .endm
        .macro  out1
        out     %al, %dx
        .endm
        .macro  out2
        out     %ax, %dx
        .endm
        .macro  out4
        out     %eax, %dx
        .endm

# Results: the low bytes of rax.
        .irp    width, 1, 2, 4, 8
emit\width:
        store\width (%r15)
        add     $\width, %r15
        jmp     next

read\width:                                     # emit the memory at a
        load\width (%rdi)
        jmp     emit\width

write\width:                                    # write b to the memory at a
        mov     %rsi, %rax
        store\width (%rdi)
        jmp     next

get\width:                                      # variable = the memory at a
        load\width (%rdi)
        mov     %rax, (%r8)
        jmp     next

value\width:                                    # emit a
        mov     %rdi, %rax
        jmp     emit\width

wait\width:                                     # until memory at a, masked by c, is b:
1:      load\width (%rdi)                       # at most aux looks; emit 1, or 0
        and     %rcx, %rax
        cmp     %rsi, %rax
        je      emit_true
        sub     $1, %edx
        jnz     1b
        jmp     emit_false

sweep_read\width:                               # c reads from a in steps of aux: emit how many
        mov     %rdx, %r11                      # were not b, and the first: address, value
        xor     %r8, %r8
        xor     %r9, %r9
        xor     %r10, %r10
1:      load\width (%rdi)
        cmp     %rsi, %rax
        jne     3f
2:      add     %r11, %rdi
        sub     $1, %rcx
        jnz     1b
        jmp     emit_sweep
3:      add     $1, %r8
        cmp     $1, %r8
        jne     2b
        mov     %rdi, %r9
        mov     %rax, %r10
        jmp     2b

sweep_write\width:                              # c writes of b from a in steps of aux
        mov     %rsi, %rax
1:      store\width (%rdi)
        add     %rdx, %rdi
        sub     $1, %rcx
        jnz     1b
        jmp     next
        .endr

        .irp    width, 1, 2, 4
in\width:                                       # emit what port a yields
        mov     %edi, %edx
        in\width
        jmp     emit\width

out\width:                                      # write b to port a
        mov     %edi, %edx
        mov     %rsi, %rax
        out\width
        jmp     next

sweep_in\width:                                 # as sweep_read, for ports
        mov     %rdx, %r11
        xor     %r8, %r8
        xor     %r9, %r9
        xor     %r10, %r10
1:      mov     %edi, %edx
        in\width
        cmp     %rsi, %rax
        jne     3f
2:      add     %r11, %rdi
        sub     $1, %rcx
        jnz     1b
        jmp     emit_sweep
3:      add     $1, %r8
        cmp     $1, %r8
        jne     2b
        mov     %rdi, %r9
        mov     %rax, %r10
        jmp     2b

sweep_out\width:                                # as sweep_write, for ports
        mov     %rdx, %r11
        mov     %rsi, %rax
1:      mov     %edi, %edx
        out\width
        add     %r11, %rdi
        sub     $1, %rcx
        jnz     1b
        jmp     next
        .endr

emit_sweep:
        mov     %r8, (%r15)
        mov     %r9, 8(%r15)
        mov     %r10, 16(%r15)
        add     $24, %r15
        jmp     next

emit_true:
        mov     $1, %eax
        jmp     emit1
emit_false:
        xor     %eax, %eax
        jmp     emit1

fill:                                           # c times the u64 b at a
        mov     %rsi, %rax
        rep stosq
        jmp     next

copy:                                           # c words of 8 bytes from b of the script to a
        add     %rbx, %rsi
        rep movsq
        jmp     next

program:                                        # c pairs of u32 from b of the script: the offset
        add     %rbx, %rsi                      # from a of a register, and what is written to it
1:      mov     (%rsi), %eax
        mov     4(%rsi), %edx
        mov     %edx, (%rdi,%rax)
        add     $8, %rsi
        sub     $1, %rcx
        jnz     1b
        jmp     next

every_byte:                                     # for each byte value: what `program` does, then
        add     %rbx, %rsi                      # the value is written to the register at offset
        xor     %r8, %r8                        # aux from a; emit the low byte it then shows
1:      mov     %rsi, %r9
        mov     %rcx, %r10
2:      mov     (%r9), %eax
        mov     4(%r9), %r11d
        mov     %r11d, (%rdi,%rax)
        add     $8, %r9
        sub     $1, %r10
        jnz     2b
        mov     %r8d, (%rdi,%rdx)
        mov     (%rdi,%rdx), %eax
        store1  (%r15)
        add     $1, %r15
        add     $1, %r8
        cmp     $256, %r8
        jne     1b
        jmp     next

dump:                                           # emit c words of 8 bytes of memory at a
        mov     %rdi, %rsi
        mov     %r15, %rdi
        rep movsq
        mov     %rdi, %r15
        jmp     next

settle:                                         # until the u16 at a is b, or the device whose
        load2   (%rdi)                          # status register is at c needs a reset: at most
        cmp     %rsi, %rax                      # aux looks
        je      next
        load4   (%rcx)
        test    $NEEDS_RESET, %eax
        jnz     next
        sub     $1, %edx
        jnz     settle
        jmp     next

set:                                            # variable = a
        mov     %rdi, (%r8)
        jmp     next

below:                                          # go to operation c if a < b
        cmp     %rsi, %rdi
        jae     next
        mov     %rcx, %rbp
        add     %rbx, %rbp
        jmp     next

call:                                           # run the machine code at a, which returns
        call    *%rdi
        jmp     next

input:                                          # wait for a byte on the serial port, emit it
        mov     $LINE_STATUS, %edx
        in      %dx, %al
        test    $DATA_READY, %al
        jz      input
        mov     $COM1, %edx
        in      %dx, %al
        jmp     emit1

flush:                                          # send the results
        mov     $RESULTS, %rsi
        mov     $COM1, %edx
1:      cmp     %r15, %rsi
        je      2f
        mov     (%rsi), %al
        out     %al, %dx
        add     $1, %rsi
        jmp     1b
2:      mov     $RESULTS, %r15
        jmp     next

idle:                                           # sleep for good, with interrupts enabled
        sti
1:      hlt
        jmp     1b

        .data
        .balign 8
operations:
        .irp    name, read, write, get, value, wait, sweep_read, sweep_write
        .quad   \name\()1, \name\()2, \name\()4, \name\()8
        .endr
        .irp    name, in, out, sweep_in, sweep_out
        .quad   \name\()1, \name\()2, \name\()4, 0
        .endr
        .irp    name, fill, copy, program, every_byte, dump, settle, set, below, call, input, flush, idle
        .quad   \name, 0, 0, 0
        .endr

        .bss
        .balign 8
variables:
        .skip   256 * 8
