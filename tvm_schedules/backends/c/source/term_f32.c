/* Adds level times a term's sums to y; level 0 stands for 1. */
static void tern_term_f32(const float *x, int32_t limit, const tern_offset *plus, int32_t plus_count,
                          const tern_offset *minus, int32_t minus_count, float level, float *y)
{
    float sum[TERN_BLOCK];
    int32_t i, tap;
    (void)limit; /* float has none */
    for (i = 0; i < TERN_BLOCK; i++) sum[i] = 0;
    for (tap = 0; tap < plus_count; tap++) {
        const float *from = x + plus[tap];
        for (i = 0; i < TERN_BLOCK; i++) sum[i] += from[i];
    }
    for (tap = 1; tap <= minus_count; tap++) {
        const float *from = x + *(minus - tap);
        for (i = 0; i < TERN_BLOCK; i++) sum[i] -= from[i];
    }
    if (!(level > 0 || level < 0)) for (i = 0; i < TERN_BLOCK; i++) y[i] += sum[i];
    else for (i = 0; i < TERN_BLOCK; i++) y[i] = tern_fma(sum[i], level, y[i]);
}
