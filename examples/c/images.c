/* Looks at images whose pixels are bytes already, and says what they are. */
#include "images.h"
#include "pictures.h"

#if __STDC_HOSTED__
#include <stdio.h>
static void say(const char *text) { fputs(text, stdout); }
#else
void say(const char *text); /* cortex-m/startup.c */
#endif

static float scores[IMAGES_OUTPUT_ELEMENTS];

int main(void)
{
    int picture, i, wrong = 0;
    for (picture = 0; picture < PICTURES; picture++) {
        int seen = 0;
        char text[] = "picture 0: class 0, labeled 0\n";
        if (images_run_quantized(pictures[picture], scores)) return 2;
        for (i = 1; i < IMAGES_OUTPUT_ELEMENTS; i++) {
            if (scores[i] > scores[seen]) seen = i;
        }
        text[8] = (char)('0' + picture);
        text[17] = (char)('0' + seen);
        text[28] = (char)('0' + labels[picture]);
        say(text);
        wrong += seen != expected[picture];
    }
    say(wrong ? "differs from what was exported\n" : "as exported\n");
    return wrong != 0;
}
