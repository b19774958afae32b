# A guest that has nothing to do: it says so on the serial port, and waits for interrupts that never come.

        .include "pvh.inc"

        .set COM1, 0x3f8
        .set PIC1_DATA, 0x21
        .set PIC2_DATA, 0xa1

        .text
        .globl _start
_start:
        mov     $0xff, %al
        out     %al, $PIC1_DATA
        out     %al, $PIC2_DATA
        mov     $COM1, %edx
        mov     $'i', %al
        out     %al, %dx
        mov     $'d', %al
        out     %al, %dx
        mov     $'l', %al
        out     %al, %dx
        mov     $'e', %al
        out     %al, %dx
        mov     $'\n', %al
        out     %al, %dx
halt:
        sti
        hlt
        jmp     halt

        pvh_note _start
