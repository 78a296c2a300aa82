/* Runs a network once (RUN: model_run or model_run_quantized) on the sample between two marks; tells whether the output is the sample's, and the stack used. */
#include "model.h"
#include "model_sample.h"

void say(const char *text); /* examples/c/cortex-m/startup.c */
extern uint32_t stack_top[];

enum { STACK_WORDS = 4096, PATTERN = 0x5a5a5a5a };

static uint64_t output[(sizeof model_sample_output + 7) / 8];

__attribute__((noinline)) void count_begin(void) { __asm__ volatile(""); }
__attribute__((noinline)) void count_end(void) { __asm__ volatile(""); }
__attribute__((noinline)) void count_mark(void) { __asm__ volatile(""); }

static void say_number(const char *what, uint32_t number)
{
    char text[12], *at = text + sizeof text - 1;
    *at-- = 0;
    *at = '\n';
    do *--at = (char)('0' + number % 10); while ((number /= 10) != 0);
    say(what);
    say(at);
}

int main(void)
{
    const uint8_t *have = (const uint8_t *)output, *want = (const uint8_t *)model_sample_output;
    volatile uint32_t *here = (volatile uint32_t *)__builtin_frame_address(0) - 64, *low = stack_top - STACK_WORDS, *at;
    uint32_t i, differ = 0;
#ifdef TRAP_UNALIGNED
    *(volatile uint32_t *)0xe000ed14u |= 8; /* CCR.UNALIGN_TRP: as on cores without unaligned access */
    __asm__ volatile("mrs r0, control\n\tmsr control, r0\n\tisb" ::: "r0"); /* QEMU looks at it only here */
#endif
#ifdef PREPARE
    PREPARE();
#endif
    for (at = low; at < here; at++) *at = PATTERN;
    count_begin();
    if (RUN(model_sample_input, (void *)output)) return 1;
    count_end();
    for (at = low; at < here && *at == PATTERN; at++) {}
    for (i = 0; i < sizeof model_sample_output; i++) differ += have[i] != want[i];
    say_number("stack ", (uint32_t)((stack_top - (const uint32_t *)at) * 4));
    say_number("differ ", differ);
    return differ != 0;
}
