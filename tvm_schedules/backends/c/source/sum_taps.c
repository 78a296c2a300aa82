/* Taps are summed in pieces where 16 bits would not hold all of them; the first ones are longer by one where it does not
   come out even. */
TERN_INLINE int32_t tern_pieces(int32_t plus_count, int32_t minus_count, int32_t limit)
{
    const int32_t most = plus_count > minus_count ? plus_count : minus_count;
    return most > limit ? (most - 1) / limit + 1 : 1;
}

TERN_INLINE int32_t tern_piece(int32_t count, int32_t pieces, int32_t piece)
{
    return count / pieces + (piece < count % pieces);
}

/* Sums of a block of pixels, of which left are wanted: of up to limit taps of either sign, and of more. */
TERN_INLINE void tern_sum_i16(const uint8_t *x, const struct tern_taps *p, int32_t limit, int32_t left, int16_t *sum)
{
    (void)limit;
    tern_sum_u8(x, p->plus, p->plus_count, p->minus, p->minus_count, left, sum);
}

TERN_INLINE void tern_sum_i32(const uint8_t *x, const struct tern_taps *p, int32_t limit, int32_t left, int32_t *sum)
{
    const int32_t pieces = tern_pieces(p->plus_count, p->minus_count, limit);
    const tern_offset *plus = p->plus, *minus = p->minus;
    int32_t piece, i;
    for (i = 0; i < TERN_BLOCK; i++) sum[i] = 0;
    for (piece = 0; piece < pieces; piece++) {
        const int32_t adds = tern_piece(p->plus_count, pieces, piece), subtracts = tern_piece(p->minus_count, pieces, piece);
        int16_t part[TERN_BLOCK];
        tern_sum_u8(x, plus, adds, minus, subtracts, left, part);
        for (i = 0; i < TERN_BLOCK && i < left; i++) sum[i] += part[i];
        plus += adds, minus -= subtracts;
    }
}
