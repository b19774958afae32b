/*
 * QEMU plugin: counts the instructions a guest kernel executes, from its entry point to the
 * first user-space instruction of its first process, then ends QEMU.
 *
 * Arguments (name=value):
 *   entry    address of the kernel's first instruction, hexadecimal link address: counting starts there
 *   armed    link address of the first process's kernel side, which runs before any user space
 *   out      file that receives the report
 *   nested   on: the kernel runs in a virtual machine (AMD-V) of the emulated one, which has one
 *            processor; what the outer machine executes is not counted (optional)
 *   exclude  LOW-HIGH, hexadecimal link addresses of code that is not counted (repeatable)
 *   settle   LOW-HIGH, hexadecimal link addresses of the function that notifies a device: when it
 *            returns, the guest waits for the device, so that no count depends on the host's speed
 *            (optional)
 *   marks    file of link addresses, one hexadecimal number per line: the first execution of each
 *            is reported with the count reached (optional)
 *
 * Report, one record per line: `retired N`, `iterations N`, `excluded N`, `mark ADDRESS N`,
 * `at ADDRESS N`.
 *
 * `retired` is what a processor's counter of retired instructions shows: a repeated string
 * instruction is one. `iterations` counts every round of those.
 *
 * Debian's QEMU ships no plugin header: what is used of it (plugin API version 1) is declared
 * here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*tb_translated)(plugin_id id, struct qemu_plugin_tb *block);
typedef void (*insn_executed)(unsigned int vcpu, void *data);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, tb_translated callback);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, insn_executed callback,
						   int flags, void *data);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int operation,
						       void *counter, uint64_t value);

enum { NO_REGISTERS = 0, ADD_U64 = 0 };

EXPORT int qemu_plugin_version = 1;

/* The x86_64 kernel links its text here, and runs it at the same offset in physical memory. */
#define LINK_BASE 0xffffffff80000000ull
#define HIGH_HALF 0xffff800000000000ull
/* One counter per byte offset of the kernel image: a sparse mapping, touched where code runs. */
#define IMAGE_SPAN (64ull << 20)
#define MAX_RANGES 16
#define SETTLE_MICROSECONDS 5000

static uint64_t *counts;      /* by offset from LINK_BASE */
static uint64_t elsewhere;    /* kernel code outside the image */
static uint64_t plain;        /* counted instructions but the repeated string ones */
static uint64_t strings;      /* repeated string instructions */
static uint64_t rounds;       /* their rounds */
static uint64_t excluded;
static uint64_t entry, armed_by;
static bool started, armed;
static bool nested, in_guest;
static uint64_t after_vmrun;
static const char *report_path;

struct range { uint64_t low, high; };
static struct range settle;

static struct range ranges[MAX_RANGES];
static size_t range_count;

static struct mark { uint64_t address, reached; bool seen; } *marks;
static size_t mark_count;

static uint64_t link_address(uint64_t address)
{
	return address < IMAGE_SPAN ? LINK_BASE + address : address;
}

static bool is_excluded(uint64_t address)
{
	for (size_t i = 0; i < range_count; i++)
		if (address >= ranges[i].low && address < ranges[i].high)
			return true;
	return false;
}

static uint64_t *cell(uint64_t address)
{
	return address - LINK_BASE < IMAGE_SPAN ? &counts[address - LINK_BASE] : &elsewhere;
}

/* True for a string instruction with a REP prefix: QEMU executes each round as an instruction. */
static bool is_repeated(const struct qemu_plugin_insn *insn)
{
	const uint8_t *code = qemu_plugin_insn_data(insn);
	size_t size = qemu_plugin_insn_size(insn);
	bool rep = false;

	for (size_t i = 0; i < size; i++) {
		uint8_t byte = code[i];

		if (byte == 0xf2 || byte == 0xf3)
			rep = true;
		else if (byte != 0x66 && byte != 0x67 && (byte & 0xf0) != 0x40)
			return rep && ((byte >= 0xa4 && byte <= 0xa7) || (byte >= 0xaa && byte <= 0xaf) ||
				       (byte >= 0x6c && byte <= 0x6f));
	}
	return false;
}

static void report(void)
{
	FILE *out = fopen(report_path, "w");

	if (!out) {
		perror(report_path);
		_exit(1);
	}
	fprintf(out, "retired %" PRIu64 "\n", plain + strings);
	fprintf(out, "iterations %" PRIu64 "\n", plain + rounds);
	fprintf(out, "excluded %" PRIu64 "\n", excluded);
	for (size_t i = 0; i < mark_count; i++)
		if (marks[i].seen)
			fprintf(out, "mark %" PRIx64 " %" PRIu64 "\n", marks[i].address, marks[i].reached);
	for (size_t i = 0; i < IMAGE_SPAN; i++)
		if (counts[i])
			fprintf(out, "at %" PRIx64 " %" PRIu64 "\n", (uint64_t)(LINK_BASE + i), counts[i]);
	fprintf(out, "at 0 %" PRIu64 "\n", elsewhere);
	if (fclose(out)) {
		perror(report_path);
		_exit(1);
	}
	_exit(0);
}

static void on_entry(unsigned int vcpu, void *data)
{
	(void)vcpu, (void)data;
	if (started)
		return;
	started = true;
	/* Forget the firmware; the entry instruction itself is counted after this call. */
	madvise(counts, IMAGE_SPAN * sizeof(*counts), MADV_DONTNEED);
	elsewhere = plain = strings = rounds = excluded = 0;
}

static void on_user(unsigned int vcpu, void *data)
{
	(void)data;
	/* Other processors start in low memory. */
	if (vcpu == 0)
		report();
}

static void on_mark(unsigned int vcpu, void *data)
{
	struct mark *mark = data;

	(void)vcpu;
	if (!started || mark->seen)
		return;
	mark->seen = true;
	mark->reached = plain + strings;
}

static void on_string(unsigned int vcpu, void *data)
{
	static void *last;
	static uint64_t last_plain;

	(void)vcpu;
	rounds++;
	if (data == last && plain == last_plain)
		return;
	last = data;
	last_plain = plain;
	strings++;
	++*(uint64_t *)data;
}

/* The virtual CPU holds no lock here: the device completes and raises its interrupt. */
static void on_notified(unsigned int vcpu, void *data)
{
	(void)vcpu, (void)data;
	if (started)
		usleep(SETTLE_MICROSECONDS);
}

/* True for a return: by the instruction, or by a jump to the kernel's return thunk. */
static bool is_return(const struct qemu_plugin_insn *insn)
{
	const uint8_t *code = qemu_plugin_insn_data(insn);

	return code[0] == 0xc3 || code[0] == 0xe9;
}

static bool is_vmrun(const struct qemu_plugin_insn *insn)
{
	return qemu_plugin_insn_size(insn) == 3 && !memcmp(qemu_plugin_insn_data(insn), "\x0f\x01\xd8", 3);
}

static void on_vmrun(unsigned int vcpu, void *next)
{
	(void)vcpu;
	in_guest = true;
	after_vmrun = (uintptr_t)next;
}

static void on_vmexit(unsigned int vcpu, void *data)
{
	(void)vcpu, (void)data;
	in_guest = false;
}

/* Watches the outer machine enter and leave the inner one. True for a block of the inner one. */
static bool is_inner(struct qemu_plugin_tb *block, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (address == after_vmrun) {
			in_guest = false;
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_vmexit, NO_REGISTERS, NULL);
		}
		if (!in_guest && is_vmrun(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_vmrun, NO_REGISTERS,
							       (void *)(uintptr_t)(address + 3));
	}
	return in_guest;
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *block)
{
	size_t n = qemu_plugin_tb_n_insns(block);

	(void)id;
	if (nested && !is_inner(block, n))
		return;
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);
		uint64_t link = link_address(address);

		if (link == entry)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_entry, NO_REGISTERS, NULL);
		if (started && address == armed_by)
			armed = true;
		if (armed && address < HIGH_HALF) {
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_user, NO_REGISTERS, NULL);
			return;
		}
		if (link >= settle.low && link < settle.high && is_return(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_notified, NO_REGISTERS, NULL);
		for (size_t m = 0; m < mark_count; m++)
			if (marks[m].address == link)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, NO_REGISTERS, &marks[m]);
		if (is_excluded(link)) {
			qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &excluded, 1);
		} else if (is_repeated(insn)) {
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_string, NO_REGISTERS, cell(link));
		} else {
			qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &plain, 1);
			qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, cell(link), 1);
		}
	}
}

static bool read_marks(const char *path)
{
	FILE *in = fopen(path, "r");
	uint64_t address;

	if (!in)
		return false;
	while (fscanf(in, "%" SCNx64, &address) == 1) {
		struct mark *grown = realloc(marks, (mark_count + 1) * sizeof(*marks));

		if (!grown)
			return false;
		marks = grown;
		marks[mark_count++] = (struct mark){ .address = address };
	}
	return fclose(in) == 0;
}

static bool read_range(const char *text, struct range *range)
{
	return sscanf(text, "%" SCNx64 "-%" SCNx64, &range->low, &range->high) == 2;
}

static bool read_argument(char *argument)
{
	char *value = strchr(argument, '=');

	if (!value)
		return false;
	*value++ = '\0';
	if (!strcmp(argument, "entry"))
		entry = strtoull(value, NULL, 16);
	else if (!strcmp(argument, "armed"))
		armed_by = strtoull(value, NULL, 16);
	else if (!strcmp(argument, "nested"))
		nested = !strcmp(value, "on");
	else if (!strcmp(argument, "out"))
		report_path = strdup(value);
	else if (!strcmp(argument, "marks"))
		return read_marks(value);
	else if (!strcmp(argument, "settle"))
		return read_range(value, &settle);
	else if (!strcmp(argument, "exclude") && range_count < MAX_RANGES)
		return read_range(value, &ranges[range_count++]);
	else
		return false;
	return true;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!read_argument(argv[i])) {
			fprintf(stderr, "plugin argument %s: not understood\n", argv[i]);
			return 1;
		}
	}
	if (!entry || !armed_by || !report_path) {
		fprintf(stderr, "the plugin needs entry=, armed= and out=\n");
		return 1;
	}
	counts = mmap(NULL, IMAGE_SPAN * sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (counts == MAP_FAILED) {
		perror("counters");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
	return 0;
}
