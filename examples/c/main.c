/* Runs a network on the sample of its export, on the device itself, and compares the output bit for bit. */
#include "model.h"
#include "model_sample.h"

#if __STDC_HOSTED__
#include <stdio.h>
#include <time.h>
static void say(const char *text) { fputs(text, stdout); }
static uint32_t ticks(void) { return (uint32_t)((uint64_t)clock() * 1000000u / CLOCKS_PER_SEC); }
static const char unit[] = " us a run\n";
enum { RUNS = 100 };
#else
void say(const char *text); /* cortex-m/startup.c */
uint32_t ticks(void);
static const char unit[] = " cycles a run\n";
enum { RUNS = 1 };
#endif

static model_output_type output[MODEL_OUTPUT_ELEMENTS];

static void say_number(uint32_t number)
{
    char text[11], *at = text + sizeof text - 1;
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    say(at);
}

int main(void)
{
    const unsigned char *have = (const unsigned char *)output, *want = (const unsigned char *)model_sample_output;
    uint32_t i, best = 0, started = ticks(), spent;
    for (i = 0; i < RUNS; i++) {
        if (model_run(model_sample_input, output)) {
            say("model_run failed\n");
            return 1;
        }
    }
    spent = (ticks() - started) / RUNS;
    for (i = 0; i < sizeof output; i++) {
        if (have[i] != want[i]) {
            say("the output differs from that of the export\n");
            return 1;
        }
    }
    for (i = 1; i < MODEL_OUTPUT_ELEMENTS; i++) {
        if (output[i] > output[best]) best = i;
    }
    say("the output is that of the export, bit for bit; largest at ");
    say_number(best);
    say("\narena ");
    say_number(MODEL_ARENA_BYTES);
    say(" bytes\n");
    if (spent) { /* an emulator has no cycle counter */
        say_number(spent);
        say(unit);
    }
    return 0;
}
