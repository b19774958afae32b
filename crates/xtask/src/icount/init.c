/*
 * First process of a measured guest: powers the machine off, or restarts it when it has no
 * power-off. Nothing of it but its first instruction matters to the count.
 */
#define SYS_REBOOT 169
#define MAGIC1 0xfee1deadL
#define MAGIC2 672274793L
#define POWER_OFF 0x4321fedcL
#define RESTART 0x01234567L

static void request(long what)
{
	long result = SYS_REBOOT;

	__asm__ volatile("syscall" : "+a"(result) : "D"(MAGIC1), "S"(MAGIC2), "d"(what) : "rcx", "r11", "memory");
}

void _start(void)
{
	for (;;) {
		request(POWER_OFF);
		request(RESTART);
	}
}
