/* What a RISC-V core of QEMU's board virt needs before main; text and exit status go to the emulator by semihosting. */
#include <stddef.h>
#include <stdint.h>

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[];
int main(void);
void reset(void);
void begin(void);
void say(const char *text);

static int32_t semihosting(int32_t operation, const void *argument)
{
    register int32_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    __asm__ volatile(".option push\n\t.option norvc\n\t.balign 16\n\tslli x0, x0, 0x1f\n\tebreak\n\tsrai x0, x0, 7\n\t.option pop"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}

void say(const char *text)
{
    semihosting(4, text); /* SYS_WRITE0 */
}

static void finish(int status)
{
    semihosting(0x18, (const void *)(status ? 0x20023 : 0x20026)); /* SYS_EXIT: error or success */
    for (;;) {}
}

__attribute__((aligned(4))) static void fault(void)
{
    say("fault\n");
    finish(1);
}

void begin(void)
{
    uint32_t *to = data_start;
    const uint32_t *from = data_load;
    __asm__ volatile(".option push\n\t.option arch, +zicsr\n\tcsrw mtvec, %0\n\tcsrs mstatus, %1\n\t.option pop"
                     : : "r"(fault), "r"(1u << 9)); /* VS: vectors on; nothing where there are none */
    while (to < data_end) *to++ = *from++;
    for (to = bss_start; to < bss_end; to++) *to = 0;
    finish(main());
}

__attribute__((naked, used, section(".vectors"))) void reset(void)
{
    __asm__("la sp, stack_top\n\tj begin");
}
