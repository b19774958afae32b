// The smallest guest on aarch64: the letter `l` on the serial port, then a reset by the firmware's call.

        .pushsection .rodata.null, "a", @progbits
        .balign 8
        .globl  null_image
null_image:
        b       .Lnull_start
        .word   0
        .quad   0                               // text offset
        .quad   0x10000                         // image size
        .quad   2                               // little endian, pages of 4 KiB
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .word   0

.Lnull_start:
        mov     x1, #0x40000000                 // the serial port
        mov     w0, #'l'
        strb    w0, [x1]
        mov     w0, #9                          // SYSTEM_RESET of PSCI (Arm DEN 0022)
        movk    w0, #0x8400, lsl #16
        hvc     #0
1:      b       1b
        .globl  null_image_end
null_image_end:
        .popsection
