/* Adds level times a term's sums to y, in pieces of up to limit taps of either sign; level 0 stands for 1. */
static void tern_term_u8(const uint8_t *x, int32_t limit, const tern_offset *plus, int32_t plus_count,
                         const tern_offset *minus, int32_t minus_count, float level, float *y)
{
    const int32_t pieces = tern_pieces(plus_count, minus_count, limit);
    int32_t piece, i;
    for (piece = 0; piece < pieces; piece++) {
        const int32_t adds = tern_piece(plus_count, pieces, piece), subtracts = tern_piece(minus_count, pieces, piece);
        int16_t sum[TERN_BLOCK];
        tern_sum_u8(x, plus, adds, minus, subtracts, TERN_BLOCK, sum);
        plus += adds;
        minus -= subtracts;
        if (!(level > 0 || level < 0)) for (i = 0; i < TERN_BLOCK; i++) y[i] += (float)sum[i];
        else for (i = 0; i < TERN_BLOCK; i++) y[i] = tern_fma((float)sum[i], level, y[i]);
    }
}
