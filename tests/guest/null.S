# The smallest guest: one letter on the serial port, then a reset through the keyboard
# controller. The letter says by which protocol it was entered: `p` for PVH, `l` for the 64-bit
# one of Linux. The instructions have the same encoding in 32-bit and 64-bit mode.

        .include "pvh.inc"

        .set COM1, 0x3f8
        .set I8042_COMMAND, 0x64
        .set RESET, 0xfe
        .set START_INFO_MAGIC, 0x336ec578

        .text
        .globl _start
_start:
        mov     $'l', %al
        jmp     print

pvh_start:
        # ebx points to a start_info that begins with its magic number.
        mov     $'?', %al
        .byte   0x8b, 0x0b                      # mov (%ebx), %ecx
        cmp     $START_INFO_MAGIC, %ecx
        jne     print
        mov     $'p', %al

print:
        mov     $COM1, %edx
        out     %al, %dx
        mov     $RESET, %al
        out     %al, $I8042_COMMAND
halt:
        hlt
        jmp     halt

        pvh_note pvh_start
