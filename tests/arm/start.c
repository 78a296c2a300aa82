/* A program without a C library, under QEMU's user-mode emulation: reads the input from stdin, writes the output to
   stdout, by Linux system calls. M-profile CPUs have no C library here. */
#include "model.h"

static float input[MODEL_INPUT_ELEMENTS], output[MODEL_OUTPUT_ELEMENTS];

#if defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT = 93 };
static long call(long number, long a, const void *b, long c)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register const void *x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
    return x0;
}
#else
enum { READ = 3, WRITE = 4, EXIT = 1 };
static long call(long number, long a, const void *b, long c)
{
    register long r0 __asm__("r0") = a;
    register const void *r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    register long r3 __asm__("r3") = number;
    __asm__ volatile("push {r7}\n\tmov r7, r3\n\tsvc 0\n\tpop {r7}" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3) : "memory");
    return r0;
}
#endif

void _start(void)
{
    char *to = (char *)input;
    long left = sizeof input;
    while (left > 0) {
        const long got = call(READ, 0, to, left);
        if (got <= 0) call(EXIT, 2, 0, 0);
        to += got;
        left -= got;
    }
    left = model_run(input, output);
    call(WRITE, 1, output, sizeof output);
    call(EXIT, left, 0, 0);
    for (;;) {}
}
