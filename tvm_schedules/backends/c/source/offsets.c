/* A row as offsets of the pixels to add (upwards from plus) and to subtract (downwards from below minus). */
struct tern_taps {
    const tern_offset *plus, *minus;
    int32_t plus_count, minus_count;
};

/* Lists the offset of every weight of a row, all rows alike, and four more entries for the last trits of a byte. */
static void tern_table(const struct tern_codes *l, tern_offset *table)
{
    int32_t channel, tap;
    for (channel = 0; channel < l->channels; channel++) {
        for (tap = 0; tap < l->taps; tap++) *table++ = (tern_offset)(channel * l->channel + l->tap[tap]);
    }
    for (tap = 0; tap < 4; tap++) *table++ = 0;
}

/* Reads a row's code and lists the offsets of what is not zero; returns the next row's code. */
static const uint8_t *tern_offsets(const struct tern_codes *l, const uint8_t *code, const tern_offset *table,
                                   tern_offset *list, struct tern_taps *found)
{
    tern_offset *plus = list, *minus = list + l->capacity;
    if (TERN_GAPS && (!TERN_TRITS || l->gaps)) {
        const tern_offset *at = table - 1;
        for (;;) {
            while (*code) {
                at += *code++;
                *plus++ = *at;
            }
            if (!code[1]) break;
            at += code[1];
            code += 2;
        }
        for (at = table - 1, code += 2;; code += 2) {
            while (*code) {
                at += *code++;
                *--minus = *at;
            }
            if (!code[1]) break;
            at += code[1];
        }
        code += 2;
    } else if (TERN_TRITS) {
        const tern_offset *end = table + l->channels * l->taps;
        for (; table < end; table += 5) {
            uint32_t rest = *code++;
            int k;
            for (k = 0; k < 5; k++) {
                const uint32_t trit = (rest *= 3) >> 8;
                rest &= 255;
                *plus = minus[-1] = table[k]; /* one entry of the list stays free, so that both may be written */
                plus += trit >> 1;
                minus -= !trit;
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
    uint8_t wide;  /* sums of rows with more taps are integers of 32 bits; 0: floats */
    int32_t images, rows, group_rows;
    int32_t image, group; /* elements from image to image and from group to group of the input */
    struct tern_finish finish;
};
