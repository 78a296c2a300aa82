/* QEMU TCG plugin (API of QEMU 6 to 8, no header needed): counts the instructions of a machine between two functions.
 *
 * Blocks count themselves; the counts are taken where the functions at the addresses begin= and end= are entered, and
 * written to out= as lines of a block's address, its instructions and how often it ran. Where the function at mark= is
 * entered, a line "mark" with the instructions since the beginning is written. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 };
enum { NO_REGISTERS };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
#define PUBLIC __attribute__((visibility("default")))
PUBLIC int qemu_plugin_version = 1;

typedef struct {
  uint64_t address, length, count, before;
} Block;
static Block **blocks;
static size_t used, room;
static uint64_t begin, end, mark;
static FILE *out;

static void begins(unsigned cpu, void *nothing) {
  for (size_t i = 0; i < used; ++i) blocks[i]->before = blocks[i]->count;
}

static void ends(unsigned cpu, void *nothing) {
  for (size_t i = 0; i < used; ++i) {
    const Block *b = blocks[i];
    if (b->count == b->before) continue;
    fprintf(out, "%lx %lu %lu\n", (unsigned long)b->address, (unsigned long)b->length, (unsigned long)(b->count - b->before));
  }
  fflush(out);
}

static void marks(unsigned cpu, void *nothing) {
  uint64_t total = 0;
  for (size_t i = 0; i < used; ++i) total += blocks[i]->length * (blocks[i]->count - blocks[i]->before);
  fprintf(out, "mark %lu\n", (unsigned long)total);
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
  Block *b = calloc(1, sizeof *b);
  b->address = qemu_plugin_tb_vaddr(tb);
  b->length = qemu_plugin_tb_n_insns(tb);
  if (used == room) blocks = realloc(blocks, (room = room ? 2 * room : 4096) * sizeof *blocks);
  blocks[used++] = b;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &b->count, 1);
  for (size_t k = 0; k < b->length; ++k) {
    struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, k);
    const uint64_t address = qemu_plugin_insn_vaddr(insn);
    if (address == begin) qemu_plugin_register_vcpu_insn_exec_cb(insn, begins, NO_REGISTERS, 0);
    if (mark && address == mark) qemu_plugin_register_vcpu_insn_exec_cb(insn, marks, NO_REGISTERS, 0);
    if (address == end) qemu_plugin_register_vcpu_insn_exec_cb(insn, ends, NO_REGISTERS, 0);
  }
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  for (int i = 0; i < argc; ++i) {
    if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    if (!strncmp(argv[i], "begin=", 6)) begin = strtoull(argv[i] + 6, 0, 0);
    if (!strncmp(argv[i], "end=", 4)) end = strtoull(argv[i] + 4, 0, 0);
    if (!strncmp(argv[i], "mark=", 5)) mark = strtoull(argv[i] + 5, 0, 0);
  }
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
