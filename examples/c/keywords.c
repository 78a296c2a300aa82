/* Listens to clips frame by frame: the network's state goes in and comes out with every call. */
#include "clips.h"
#include "keywords.h"

#if __STDC_HOSTED__
#include <stdio.h>
static void say(const char *text) { fputs(text, stdout); }
#else
void say(const char *text); /* cortex-m/startup.c */
#endif

/* Frames as inputs of 32-bit numbers: input_0 is a frame, input_1 the state; output_0 the scores, output_1 the next state. */
static float scores[KEYWORDS_OUTPUT_0_ELEMENTS];
static float states[2][KEYWORDS_INPUT_1_ELEMENTS];

int main(void)
{
    int clip, frame, i, wrong = 0;
    for (clip = 0; clip < CLIPS; clip++) {
        int heard = 0;
        char text[] = "clip 0: word 0\n";
        for (i = 0; i < KEYWORDS_INPUT_1_ELEMENTS; i++) states[0][i] = 0;
        for (frame = 0; frame < FRAMES; frame++) {
            if (keywords_run(clips[clip][frame], states[frame % 2], scores, states[(frame + 1) % 2])) return 2;
        }
        for (i = 1; i < KEYWORDS_OUTPUT_0_ELEMENTS; i++) {
            if (scores[i] > scores[heard]) heard = i;
        }
        text[5] = (char)('0' + clip);
        text[13] = (char)('0' + heard);
        say(text);
        wrong += heard != expected[clip];
    }
    say(wrong ? "differs from what was trained\n" : "as trained\n");
    return wrong != 0;
}
