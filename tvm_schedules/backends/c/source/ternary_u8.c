static inline tern_word tern_load(const uint8_t *x)
{
    tern_word word;
    tern_copy_bytes(&word, x, sizeof word);
    return word;
}

/* all: sum of words; odd: of their odd bytes, in 16-bit lanes. Neither has lost a carry: all - (odd << 8) is exact. */
static inline void tern_split(tern_word all, tern_word odd, int16_t *sum)
{
    all -= odd << 8;
#if defined(__GNUC__) && (defined(__ARM_NEON) || defined(__SSE2__)) && !defined(TERN_SCALAR)
    {
        int i;
        for (i = 0; i < 8; i++) {
            sum[2 * i] = (int16_t)all[i];
            sum[2 * i + 1] = (int16_t)odd[i];
        }
    }
#else
    sum[0] = (int16_t)all;
    sum[1] = (int16_t)odd;
    sum[2] = (int16_t)((all - (uint32_t)(int32_t)sum[0]) >> 16);
    sum[3] = (int16_t)((odd - (uint32_t)(int32_t)sum[1]) >> 16);
#endif
}

/* Sums of a block of pixels. */
static void tern_sum_u8(const uint8_t *x, const tern_offset *plus, int32_t plus_count, const tern_offset *minus,
                        int32_t minus_count, int16_t *sum)
{
#define TERN_ZERO(i) tern_word all##i = {0}, odd##i = {0};
#define TERN_PLUS(i) word = tern_load(from + i * sizeof word); all##i += word; odd##i += TERN_HIGH(word);
#define TERN_MINUS(i) word = tern_load(from + i * sizeof word); all##i -= word; odd##i -= TERN_HIGH(word);
#define TERN_SPLIT(i) tern_split(all##i, odd##i, sum + i * sizeof word);
    tern_word word;
    const uint8_t *from;
    TERN_EACH(TERN_ZERO)
    while (plus_count-- > 0) {
        from = x + *plus++;
        TERN_EACH(TERN_PLUS)
    }
    while (minus_count-- > 0) {
        from = x + *--minus;
        TERN_EACH(TERN_MINUS)
    }
    TERN_EACH(TERN_SPLIT)
}

/* Adds level times a term's sums to y, in pieces of up to limit taps of either sign; level 0 stands for 1. */
static void tern_term_u8(const uint8_t *x, int32_t limit, const tern_offset *plus, int32_t plus_count,
                         const tern_offset *minus, int32_t minus_count, float level, float *y)
{
    const int32_t most = plus_count > minus_count ? plus_count : minus_count;
    const int32_t pieces = most > limit ? (most - 1) / limit + 1 : 1;
    int32_t piece, i;
    for (piece = 0; piece < pieces; piece++) {
        int32_t adds = plus_count, subtracts = minus_count;
        int16_t sum[TERN_BLOCK];
        if (pieces > 1) { /* the first ones are longer by one where it does not come out even */
            adds = plus_count / pieces + (piece < plus_count % pieces);
            subtracts = minus_count / pieces + (piece < minus_count % pieces);
        }
        tern_sum_u8(x, plus, adds, minus, subtracts, sum);
        plus += adds;
        minus -= subtracts;
        if (!(level > 0 || level < 0)) for (i = 0; i < TERN_BLOCK; i++) y[i] += (float)sum[i];
        else for (i = 0; i < TERN_BLOCK; i++) y[i] = tern_fma((float)sum[i], level, y[i]);
    }
}
