/* Lists a row's weights that are not zero, each with its offset in the upper half; a zero ends the list. */
static void tern_dense_list(const struct tern_dense *l, const int8_t *weight, tern_pair *list)
{
    int32_t channel, tap;
    for (channel = 0; channel < l->channels; channel++) {
        for (tap = 0; tap < l->taps; tap++, weight++) {
            const tern_pair at = (tern_pair)(channel * l->channel + l->tap[tap]);
            if (*weight) *list++ = at << 4 * sizeof at | (uint16_t)(int16_t)*weight;
        }
    }
    *list = 0;
}

/* Sums of TERN_PART pixels of bytes times a row's weights of 8 bits. */
static inline void tern_dense_part_u8_i8(const uint8_t *base, const tern_pair *list, int32_t *sum)
{
    tern_pair pair;
#define TERN_FROM (base + (pair >> 4 * sizeof pair))
#if defined(TERN_MVE)
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0;
    while ((pair = *list++) != 0) {
        const uint8_t *from = TERN_FROM;
        const int32_t w = (int16_t)pair;
        s0 = vmlaq_n_s32(s0, vreinterpretq_s32_u32(vldrbq_u32(from)), w);
        s1 = vmlaq_n_s32(s1, vreinterpretq_s32_u32(vldrbq_u32(from + 4)), w);
        s2 = vmlaq_n_s32(s2, vreinterpretq_s32_u32(vldrbq_u32(from + 8)), w);
        s3 = vmlaq_n_s32(s3, vreinterpretq_s32_u32(vldrbq_u32(from + 12)), w);
    }
    vstrwq_s32(sum, s0), vstrwq_s32(sum + 4, s1), vstrwq_s32(sum + 8, s2), vstrwq_s32(sum + 12, s3);
#elif defined(TERN_DSP)
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    while ((pair = *list++) != 0) {
        const uint8_t *from = TERN_FROM;
        const int32_t w = (int32_t)pair; /* its lower half */
        tern_mac_word(from, w, &s0, &s1, &s2, &s3);
        tern_mac_word(from + 4, w, &s4, &s5, &s6, &s7);
    }
    sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3, sum[4] = s4, sum[5] = s5, sum[6] = s6, sum[7] = s7;
#else
    int32_t i;
    for (i = 0; i < TERN_PART; i++) sum[i] = 0;
    while ((pair = *list++) != 0) {
        const uint8_t *from = TERN_FROM;
        const int32_t w = (int16_t)pair;
        for (i = 0; i < TERN_PART; i++) sum[i] += w * from[i];
    }
#endif
#undef TERN_FROM
}

TERN_KERNEL void tern_dense_u8_i8(const struct tern_dense *l, const uint8_t *x, const void *residual, void *out, void *scratch)
{
    int32_t row, image, at, part;
    for (row = 0; row < l->rows; row++) {
        const uint8_t *group = x + row / l->group_rows * l->group;
        tern_dense_list(l, (const int8_t *)l->weight + row * l->channels * l->taps, scratch);
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                const int32_t left = l->finish.run - at, count = left < TERN_BLOCK ? left : TERN_BLOCK;
                int32_t sum[TERN_BLOCK];
                for (part = 0; part < count; part += TERN_PART) {
                    tern_dense_part_u8_i8(group + image * l->image + at + part, scratch, sum + part);
                }
                tern_finish_i32(&l->finish, image, row, at, sum, residual, out);
            }
        }
    }
}
