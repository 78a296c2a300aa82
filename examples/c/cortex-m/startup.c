/* The least that a Cortex-M needs before main: vectors, memory, floating point; text and exit status go to the debugger
   or emulator by semihosting. A project made by the vendor's tools has all of this already. */
#include <stddef.h>
#include <stdint.h>

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
int main(void);
void reset(void);
void say(const char *text);
uint32_t ticks(void);

static int32_t semihosting(int32_t operation, const void *argument)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void say(const char *text)
{
    semihosting(4, text); /* SYS_WRITE0 */
}

uint32_t ticks(void)
{
    return *(volatile uint32_t *)0xe0001004u; /* DWT_CYCCNT; Cortex-M0 has none */
}

static void finish(int status)
{
    semihosting(0x18, (const void *)(status ? 0x20023 : 0x20026)); /* SYS_EXIT: error or success */
    for (;;) {}
}

static void fault(void)
{
    say("fault\n");
    finish(1);
}

void reset(void)
{
    uint32_t *to = data_start;
    const uint32_t *from = data_load;
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* CPACR: floating point on */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    *(volatile uint32_t *)0xe000edfcu |= 1u << 24; /* DEMCR: trace on */
    *(volatile uint32_t *)0xe0001000u |= 1u;       /* DWT_CTRL: count cycles */
    while (to < data_end) *to++ = *from++;
    for (to = bss_start; to < bss_end; to++) *to = 0;
    finish(main());
}

__attribute__((used, section(".vectors"))) static const void *const vectors[16] = {
    stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};

/* Compilers call these for copies and fills of their own, also without a C library. */
__attribute__((weak)) void *memcpy(void *to, const void *from, size_t count)
{
    unsigned char *a = to;
    const unsigned char *b = from;
    while (count--) {
        *a++ = *b++;
        __asm__ volatile("" ::: "memory"); /* keeps this loop from becoming a call of itself */
    }
    return to;
}

__attribute__((weak)) void *memset(void *to, int value, size_t count)
{
    unsigned char *a = to;
    while (count--) {
        *a++ = (unsigned char)value;
        __asm__ volatile("" ::: "memory");
    }
    return to;
}
