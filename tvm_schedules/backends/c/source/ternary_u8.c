/* A block of a row's pixels, from the sums to the output. */
static inline void tern_block_u8(const struct tern_ternary *l, const struct tern_taps *taps, int32_t row, int32_t image,
                                 int32_t at, const uint8_t *from, const void *residual, void *out)
{
    int16_t sum[TERN_BLOCK];
#if TERN_LONG_ROWS
    if (l->wide && (taps->plus_count > l->limit || taps->minus_count > l->limit)) {
        int32_t sums[TERN_BLOCK];
        tern_sum_i32(from, taps, l->limit, l->finish.run - at, sums);
        tern_finish_i32(&l->finish, image, row, at, sums, residual, out);
        return;
    }
#endif
#if TERN_LEVELS
    if (l->level || taps->plus_count > l->limit || taps->minus_count > l->limit) {
        float y[TERN_BLOCK];
        tern_terms_u8(l, taps, row, from, y);
        tern_finish_f32(&l->finish, image, row, at, y, residual, out);
        return;
    }
#endif
    tern_sum_i16(from, taps, l->limit, l->finish.run - at, sum);
    tern_finish_i16(&l->finish, image, row, at, sum, residual, out);
}
