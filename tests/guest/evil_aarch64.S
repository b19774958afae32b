// The guest of `evil.S` on aarch64: the same script, performed at EL1. That file explains operations and results;
// there are no ports here.
//
// It comes as an Image (Linux: Documentation/arch/arm64/booting.rst) and finds its script, the initial RAM disk, in the
// device tree. All addresses are mapped to themselves as normal memory, so that an access may have any alignment: what
// KVM finds no memory for exits whatever the guest takes it for.

        .set SERIAL, 0x40000000
        .set LINE_STATUS, 5
        .set DATA_READY, 0
        .set PANIC, 0x40002000
        .set SYSTEM_OFF, 0x84000008             // PSCI (Arm DEN 0022)
        .set OPERATION_SIZE, 32
        .set NEEDS_RESET, 6

// Memory that the Image claims behind its code.
        .set IMAGE_SIZE, 0x200000
        .set RESULTS, 0x80100000
        .set VARIABLES, 0x80180000
        .set TABLE, 0x80190000

// Tokens and header fields of a device tree (Devicetree Specification 0.4, 5.2 and 5.4).
        .set STRUCTURE, 8
        .set STRINGS, 12
        .set BEGIN_NODE, 1
        .set END_NODE, 2
        .set PROPERTY, 3
        .set NOTHING, 4

// Level 1, granules of 4 KiB, 39 bits of virtual and 40 of physical addresses; one attribute, write-back. The table
// is written and walked past the caches.
        .set TCR, 25 | 1 << 23 | 2 << 32
        .set MAIR, 0xff
        .set BLOCK, 1 | 3 << 8 | 1 << 10        // inner shareable, accessed
        .set SCTLR_MMU_AND_CACHES, 1 | 1 << 2 | 1 << 12
        .set SCTLR_ALIGNMENT, 1 << 1

        .macro  number register, value
        movz    \register, #((\value) & 0xffff)
        movk    \register, #((\value) >> 16 & 0xffff), lsl #16
        movk    \register, #((\value) >> 32 & 0xffff), lsl #32
        .endm

// Registers: x19 script, x20 next operation, x21 variables, x22 end of the results, x23 serial port.
// Operands of an operation: x0 a, x1 b, x2 c, w3 aux, x4 address of the variable to set.

        .pushsection .rodata.evil, "a", @progbits
        .balign 4096
        .globl  evil_image
evil_image:
        b       .Lstart
        .word   0
        .quad   0                               // text offset
        .quad   IMAGE_SIZE
        .quad   2                               // little endian, pages of 4 KiB
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .word   0
        .balign 4096                            // the first page of RAM is for tests to use

.Lstart:
        mov     x24, x0                         // the device tree
        number  x23, SERIAL
        adr     x8, .Lvectors
        msr     vbar_el1, x8

        number  x8, TABLE
        msr     ttbr0_el1, x8
        number  x9, BLOCK
        number  x10, 1 << 30
        mov     x11, #512
1:      str     x9, [x8]
        add     x8, x8, #8
        add     x9, x9, x10
        subs    x11, x11, #1
        b.ne    1b
        number  x8, MAIR
        msr     mair_el1, x8
        number  x8, TCR
        msr     tcr_el1, x8
        dsb     sy
        isb
        tlbi    vmalle1
        dsb     sy
        mrs     x8, sctlr_el1
        number  x9, SCTLR_MMU_AND_CACHES
        orr     x8, x8, x9
        bic     x8, x8, #SCTLR_ALIGNMENT
        msr     sctlr_el1, x8
        isb

// The property that says where the initial RAM disk begins.
        ldr     w8, [x24, #STRUCTURE]
        rev     w8, w8
        add     x8, x24, x8
        ldr     w9, [x24, #STRINGS]
        rev     w9, w9
        add     x9, x24, x9
        adr     x10, .Lname
        ldp     x10, x11, [x10]
.Ltoken:
        ldr     w12, [x8], #4
        rev     w12, w12
        cmp     w12, #END_NODE
        b.eq    .Ltoken
        cmp     w12, #NOTHING
        b.eq    .Ltoken
        cmp     w12, #PROPERTY
        b.eq    .Lproperty
        cmp     w12, #BEGIN_NODE
        b.ne    .Lexception                     // the end: there is no script
1:      ldrb    w12, [x8], #1
        cbnz    w12, 1b
        b       .Laligned
.Lproperty:
        ldr     w12, [x8], #4                   // its length
        rev     w12, w12
        ldr     w13, [x8], #4                   // where its name is
        rev     w13, w13
        add     x13, x9, x13
        ldp     x14, x15, [x13]
        cmp     x14, x10
        ccmp    x15, x11, #0, eq
        b.eq    .Lfound
        add     x8, x8, x12
.Laligned:
        add     x8, x8, #3
        and     x8, x8, #~3
        b       .Ltoken

.Lfound:
        ldr     x19, [x8]
        rev     x19, x19
        mov     x20, x19
        number  x21, VARIABLES
        number  x22, RESULTS

.Lnext:
        dmb     sy                              // a device sees everything that was done before it is kicked
        ldrb    w8, [x20]
        ldrb    w9, [x20, #1]
        ldr     x0, [x20, #8]
        ldr     x9, [x21, x9, lsl #3]
        add     x0, x0, x9
        ldrb    w9, [x20, #2]
        ldr     x1, [x20, #16]
        ldr     x9, [x21, x9, lsl #3]
        add     x1, x1, x9
        ldrb    w9, [x20, #3]
        add     x4, x21, x9, lsl #3
        ldr     x2, [x20, #24]
        ldr     w3, [x20, #4]
        add     x20, x20, #OPERATION_SIZE
        adr     x9, .Loperations
        ldrsw   x8, [x9, x8, lsl #2]
        add     x9, x9, x8
        br      x9

// Loads with zero extension, and stores, of x8. KVM decodes no access that moves its base register too.
        .macro  load1 from
        ldrb    w8, [\from]
        .endm
        .macro  load2 from
        ldrh    w8, [\from]
        .endm
        .macro  load4 from
        ldr     w8, [\from]
        .endm
        .macro  load8 from
        ldr     x8, [\from]
        .endm
        .macro  store1 to
        strb    w8, [\to]
        .endm
        .macro  store2 to
        strh    w8, [\to]
        .endm
        .macro  store4 to
        str     w8, [\to]
        .endm
        .macro  store8 to
        str     x8, [\to]
        .endm

        .irp    width, 1, 2, 4, 8
.Lemit\width:
        store\width x22
        add     x22, x22, #\width
        b       .Lnext

.Lread\width:
        load\width x0
        b       .Lemit\width

.Lwrite\width:
        mov     x8, x1
        store\width x0
        b       .Lnext

.Lget\width:
        load\width x0
        str     x8, [x4]
        b       .Lnext

.Lvalue\width:
        mov     x8, x0
        b       .Lemit\width

.Lwait\width:
        load\width x0
        and     x8, x8, x2
        cmp     x8, x1
        b.eq    .Lemit_true
        subs    w3, w3, #1
        b.ne    .Lwait\width
        b       .Lemit_false

.Lsweep_read\width:
        mov     x9, #0
        mov     x10, #0
        mov     x11, #0
1:      load\width x0
        cmp     x8, x1
        b.ne    3f
2:      add     x0, x0, x3
        subs    x2, x2, #1
        b.ne    1b
        b       .Lemit_sweep
3:      add     x9, x9, #1
        cmp     x9, #1
        b.ne    2b
        mov     x10, x0
        mov     x11, x8
        b       2b

.Lsweep_write\width:
        mov     x8, x1
1:      store\width x0
        add     x0, x0, x3
        subs    x2, x2, #1
        b.ne    1b
        b       .Lnext
        .endr

.Lemit_sweep:
        str     x9, [x22]
        str     x10, [x22, #8]
        str     x11, [x22, #16]
        add     x22, x22, #24
        b       .Lnext

.Lemit_true:
        mov     x8, #1
        b       .Lemit1
.Lemit_false:
        mov     x8, #0
        b       .Lemit1

.Lfill:
        str     x1, [x0]
        add     x0, x0, #8
        subs    x2, x2, #1
        b.ne    .Lfill
        b       .Lnext

.Lcopy:
        add     x1, x19, x1
1:      ldr     x8, [x1]
        str     x8, [x0]
        add     x1, x1, #8
        add     x0, x0, #8
        subs    x2, x2, #1
        b.ne    1b
        b       .Lnext

.Lprogram:
        add     x1, x19, x1
1:      ldr     w8, [x1]
        ldr     w9, [x1, #4]
        str     w9, [x0, x8]
        add     x1, x1, #8
        subs    x2, x2, #1
        b.ne    1b
        b       .Lnext

.Levery_byte:
        add     x1, x19, x1
        mov     x10, #0
1:      mov     x11, x1
        mov     x12, x2
2:      ldr     w8, [x11]
        ldr     w9, [x11, #4]
        str     w9, [x0, x8]
        add     x11, x11, #8
        subs    x12, x12, #1
        b.ne    2b
        str     w10, [x0, x3]
        ldr     w8, [x0, x3]
        strb    w8, [x22]
        add     x22, x22, #1
        add     x10, x10, #1
        cmp     x10, #256
        b.ne    1b
        b       .Lnext

.Ldump:
        ldr     x8, [x0]
        str     x8, [x22]
        add     x0, x0, #8
        add     x22, x22, #8
        subs    x2, x2, #1
        b.ne    .Ldump
        b       .Lnext

.Lsettle:
        ldrh    w8, [x0]
        cmp     x8, x1
        b.eq    .Lnext
        ldr     w8, [x2]
        tbnz    w8, #NEEDS_RESET, .Lnext
        subs    w3, w3, #1
        b.ne    .Lsettle
        b       .Lnext

.Lset:
        str     x0, [x4]
        b       .Lnext

.Lbelow:
        cmp     x0, x1
        b.hs    .Lnext
        add     x20, x19, x2
        b       .Lnext

.Lcall:                                         // at most 4 KiB
        mov     x8, x0
        mov     x9, #256
1:      dc      cvau, x8
        add     x8, x8, #16
        subs    x9, x9, #1
        b.ne    1b
        dsb     ish
        ic      iallu
        dsb     ish
        isb
        blr     x0
        b       .Lnext

.Linput:
        ldrb    w8, [x23, #LINE_STATUS]
        tbz     w8, #DATA_READY, .Linput
        ldrb    w8, [x23]
        b       .Lemit1

.Lflush:
        number  x9, RESULTS
1:      cmp     x9, x22
        b.eq    2f
        ldrb    w8, [x9]
        strb    w8, [x23]
        add     x9, x9, #1
        b       1b
2:      number  x22, RESULTS
        b       .Lnext

.Lidle:                                         // sleep for good: nothing was asked to interrupt
        wfi
        b       .Lidle

// Whatever the guest did not mean to happen is a panic: the syndrome, its own address and the one it was about.
.Lexception:
        mrs     x0, esr_el1
        bl      .Lprint
        mrs     x0, elr_el1
        bl      .Lprint
        mrs     x0, far_el1
        bl      .Lprint
        number  x8, PANIC
        mov     w9, #1
        strb    w9, [x8]
        number  x0, SYSTEM_OFF
        hvc     #0
1:      b       1b

.Lprint:                                        // x0 in 16 hexadecimal digits, and the end of the line
        mov     x8, #60
1:      lsr     x9, x0, x8
        and     x9, x9, #15
        cmp     x9, #10
        add     x10, x9, #'0'
        add     x9, x9, #'a' - 10
        csel    x9, x10, x9, lo
        strb    w9, [x23]
        subs    x8, x8, #4
        b.pl    1b
        mov     w9, #'\n'
        strb    w9, [x23]
        ret

        .balign 16
.Lname: .ascii  "linux,initrd-start"            // of which the first 16 bytes tell it from the others

        .balign 4
.Loperations:
        .irp    name, read, write, get, value, wait, sweep_read, sweep_write
        .irp    width, 1, 2, 4, 8
        .word   .L\name\width - .Loperations
        .endr
        .endr
        .rept   4 * 4                           // ports
        .word   .Lexception - .Loperations
        .endr
        .irp    name, fill, copy, program, every_byte, dump, settle, set, below, call, input, flush, idle
        .word   .L\name - .Loperations
        .rept   3
        .word   .Lexception - .Loperations
        .endr
        .endr

        .balign 2048
.Lvectors:
        .rept   16
        .balign 128
        b       .Lexception
        .endr
        .globl  evil_image_end
evil_image_end:
        .popsection
