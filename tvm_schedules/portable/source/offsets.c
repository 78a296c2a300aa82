/* A row as offsets of the pixels to add (upwards from plus) and to subtract (downwards from below minus). */
struct tern_taps {
    const tern_offset *plus, *minus;
    int32_t plus_count, minus_count;
};

/* Reads a row's code and lists its offsets; returns the next row's code. */
static const uint8_t *tern_offsets(const struct tern_codes *l, const uint8_t *code, tern_offset *list,
                                   struct tern_taps *found)
{
    tern_offset *plus = list, *minus = list + l->capacity;
    if (TERN_GAPS && (!TERN_TRITS || l->gaps)) {
        int sign;
        for (sign = 1; sign >= 0; sign--) {
            int32_t tap = -1, base = 0, gap;
            while ((gap = *code++) != 0) {
                tap += gap == 255 ? 254 : gap;
                while (tap >= l->taps) {
                    tap -= l->taps;
                    base += l->channel;
                }
                if (gap == 255) continue;
                if (sign) *plus++ = (tern_offset)(base + l->tap[tap]);
                else *--minus = (tern_offset)(base + l->tap[tap]);
            }
        }
    } else if (TERN_TRITS) {
        uint32_t rest = 0;
        int32_t channel, tap, left = 0, base = 0;
        for (channel = 0; channel < l->channels; channel++, base += l->channel) {
            for (tap = 0; tap < l->taps; tap++) {
                const tern_offset offset = (tern_offset)(base + l->tap[tap]);
                uint32_t trit;
                if (left-- == 0) {
                    rest = *code++;
                    left = 4;
                }
                rest *= 3;
                trit = rest >> 8;
                rest &= 255;
                *plus = minus[-1] = offset; /* one entry of the list stays free, so that both may be written */
                plus += trit == 2;
                minus -= trit == 0;
            }
        }
    }
    found->plus = list;
    found->minus = list + l->capacity;
    found->plus_count = (int32_t)(plus - list);
    found->minus_count = (int32_t)(found->minus - minus);
    return code;
}

/* A convolution with ternary weights; a tensor of rows counts as an image of one line. */
struct tern_ternary {
    struct tern_codes codes;
    const float *level; /* [rows][terms][2], levels of +1 and -1; NULL: the scale holds the only one */
    int32_t terms, unequal; /* unequal: bit t is set where the levels of term t differ */
    int32_t limit; /* taps of either sign that 16 bits hold */
    int32_t images, rows, group_rows;
    int32_t image, group; /* elements from image to image and from group to group of the input */
    struct tern_finish finish;
};
