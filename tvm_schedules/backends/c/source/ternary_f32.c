/* A block of a row's pixels, from the sums to the output. */
static inline void tern_block_f32(const struct tern_ternary *l, const struct tern_taps *taps, int32_t row, int32_t image,
                                  int32_t at, const float *from, const void *residual, void *out)
{
    float y[TERN_BLOCK];
    tern_terms_f32(l, taps, row, from, y);
    tern_finish_f32(&l->finish, image, row, at, y, residual, out);
}
