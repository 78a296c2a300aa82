/* QEMU TCG plugin (API of QEMU 6 to 8, no header needed): counts the AArch64 instructions that a program executes.
 *
 * The program calls syscall(0x7e57, id), which no kernel has; the counts so far are printed with that id. With hot=N
 * the N blocks follow that executed most instructions since the last mark, with their code.
 * Options: out=FILE, hot=N. Threads are not told apart: count programs of one thread. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
#define PUBLIC __attribute__((visibility("default")))
PUBLIC int qemu_plugin_version = 1;

enum { MARK = 0x7e57 };
enum { ALL, LDST, SIMD, BRANCH, SCALAR, DOT, MLA, CLASSES };
static const char *const names[CLASSES] = {"all", "ldst", "simd", "branch", "scalar", "dot", "mla"};
static uint64_t counts[CLASSES];

typedef struct {
  uint64_t address, count, before;
  uint32_t length, *code;
} Block;
static Block **blocks;
static size_t used, room;
static size_t hot;
static FILE *out;

static void classify(uint32_t i, uint32_t *n) {
  uint32_t op = (i >> 25) & 15; /* the architecture's main table */
  n[ALL]++;
  if ((op & 5) == 4)
    n[LDST]++;
  else if ((op & 7) == 7 || op == 2)
    n[SIMD]++;
  else if ((op & 14) == 10)
    n[BRANCH]++;
  else
    n[SCALAR]++;
  /* sdot, udot: of vectors, by element */
  n[DOT] += (i & 0x9fe0fc00) == 0x0e809400 || (i & 0x9fc0f400) == 0x0f80e000;
  /* integer: mlal, mull, mla, mul, the first three by element; float: fmla, by element */
  n[MLA] += (i & 0x9f20fc00) == 0x0e208000 || (i & 0x9f20fc00) == 0x0e20c000 || (i & 0xbf20fc00) == 0x0e209400 ||
            (i & 0xbf20fc00) == 0x0e209c00 || (i & 0x9f00f400) == 0x0f002000 || (i & 0x9f00f400) == 0x0f00a000 ||
            (i & 0xbf00f400) == 0x2f000000 || (i & 0xbf20fc00) == 0x0e20cc00 || (i & 0xbf80f400) == 0x0f801000;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
  uint32_t n[CLASSES] = {0}, length = qemu_plugin_tb_n_insns(tb);
  Block *b = calloc(1, sizeof *b);
  b->address = qemu_plugin_tb_vaddr(tb);
  b->length = length;
  b->code = malloc(4 * length);
  for (uint32_t k = 0; k < length; ++k) {
    memcpy(&b->code[k], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, k)), 4);
    classify(b->code[k], n);
  }
  if (used == room) blocks = realloc(blocks, (room = room ? 2 * room : 4096) * sizeof *blocks);
  blocks[used++] = b;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &b->count, 1);
  for (int k = 0; k < CLASSES; ++k)
    if (n[k]) qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &counts[k], n[k]);
}

static int hotter(const void *a, const void *b) {
  const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
  uint64_t p = (x->count - x->before) * x->length, q = (y->count - y->before) * y->length;
  return p < q ? 1 : p > q ? -1 : 0;
}

static void marked(plugin_id id, unsigned cpu, int64_t number, uint64_t mark, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  if (number != MARK) return;
  fprintf(out, "mark %lu", (unsigned long)mark);
  for (int k = 0; k < CLASSES; ++k) fprintf(out, " %s=%lu", names[k], (unsigned long)counts[k]);
  fputc('\n', out);
  if (hot) qsort(blocks, used, sizeof *blocks, hotter);
  for (size_t i = 0; i < hot && i < used; ++i) {
    Block *b = blocks[i];
    if (b->count == b->before) break;
    fprintf(out, "hot address=%lx count=%lu code=", (unsigned long)b->address, (unsigned long)(b->count - b->before));
    for (uint32_t k = 0; k < b->length; ++k) fprintf(out, "%08x%s", b->code[k], k + 1 < b->length ? "," : "\n");
  }
  for (size_t i = 0; i < used; ++i) blocks[i]->before = blocks[i]->count;
  fflush(out);
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  out = stderr;
  for (int i = 0; i < argc; ++i) {
    if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    if (!strncmp(argv[i], "hot=", 4)) hot = strtoul(argv[i] + 4, 0, 10);
  }
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, marked);
  return 0;
}
