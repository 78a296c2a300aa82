/* A convolution whose neighboring rows are sums and differences of lists that they share. */
struct tern_ternary_groups {
    struct tern_ternary layer; /* its codes: the lists of every group */
    const int8_t *mix;         /* [lists][together]: how often a list counts in a row, -1, 0 or 1; the first once in all */
    int32_t lists, together;   /* of a group: lists, rows */
};

/* Adds sums of a list to those of a row, or takes them off. */
TERN_INLINE void tern_mix(int16_t *to, const int16_t *from, int32_t sign, int32_t count)
{
    int32_t i;
#if defined(TERN_MVE)
    if (sign > 0) for (i = 0; i < count; i += 8) vst1q_s16(to + i, vaddq_s16(vld1q_s16(to + i), vld1q_s16(from + i)));
    else for (i = 0; i < count; i += 8) vst1q_s16(to + i, vsubq_s16(vld1q_s16(to + i), vld1q_s16(from + i)));
#elif defined(TERN_DSP)
#define TERN_MIX(op) for (i = 0; i < count; i += 4) { \
        uint32_t a[2], b[2]; \
        tern_copy_bytes(a, to + i, sizeof a); \
        tern_copy_bytes(b, from + i, sizeof b); \
        __asm__(op " %0, %0, %1" : "+r"(a[0]) : "r"(b[0]) : "cc"); \
        __asm__(op " %0, %0, %1" : "+r"(a[1]) : "r"(b[1]) : "cc"); \
        tern_copy_bytes(to + i, a, sizeof a); \
    }
    if (sign > 0) TERN_MIX("uadd16")
    else TERN_MIX("usub16")
#undef TERN_MIX
#else
    if (sign > 0) for (i = 0; i < count; i++) to[i] = (int16_t)(uint16_t)((uint32_t)to[i] + (uint32_t)from[i]);
    else for (i = 0; i < count; i++) to[i] = (int16_t)(uint16_t)((uint32_t)to[i] - (uint32_t)from[i]);
#endif
}

TERN_KERNEL void tern_ternary_groups_u8(const struct tern_ternary_groups *g, const uint8_t *x, const void *residual,
                                        void *out, void *scratch)
{
    const struct tern_ternary *l = &g->layer;
    const uint8_t *code = l->codes.data;
    tern_offset *table = scratch, *list = table + l->codes.channels * l->codes.taps + 4;
    int32_t row, image, at, t, k;
    tern_table(&l->codes, table);
    for (row = 0; row < l->rows; row += g->together) {
        const uint8_t *group = x + row / l->group_rows * l->group;
        struct tern_taps taps[TERN_TERMS];
        for (t = 0; t < g->lists; t++) {
            code = tern_offsets(&l->codes, code, table, list + t * l->codes.capacity, &taps[t]);
        }
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                const uint8_t *from = group + image * l->image + at;
                const int32_t left = l->finish.run - at, count = left < TERN_BLOCK ? left : TERN_BLOCK;
                int16_t sum[4][TERN_BLOCK], one[TERN_BLOCK];
                tern_sum_u8(from, taps->plus, taps->plus_count, taps->minus, taps->minus_count, left, sum[0]);
                for (k = 1; k < g->together; k++) tern_copy_bytes(sum[k], sum[0], sizeof one);
                for (t = 1; t < g->lists; t++) {
                    const struct tern_taps *p = &taps[t];
                    const int8_t *mix = g->mix + t * g->together;
                    if (p->plus_count + p->minus_count == 0) continue;
                    tern_sum_u8(from, p->plus, p->plus_count, p->minus, p->minus_count, left, one);
                    for (k = 0; k < g->together; k++) if (mix[k]) tern_mix(sum[k], one, mix[k], count);
                }
                for (k = 0; k < g->together; k++) {
                    tern_finish_i16(&l->finish, image, row + k, at, sum[k], residual, out);
                }
            }
        }
    }
}
