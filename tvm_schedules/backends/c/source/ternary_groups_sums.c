TERN_KERNEL void tern_ternary_groups_@S@(const struct tern_ternary_groups *g, const uint8_t *x, const void *residual,
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
                @SUM@ sum[4][TERN_BLOCK], one[TERN_BLOCK];
                tern_sum_@S@(from, taps, l->limit, left, sum[0]);
                for (k = 1; k < g->together; k++) tern_copy_bytes(sum[k], sum[0], sizeof one);
                for (t = 1; t < g->lists; t++) {
                    const struct tern_taps *p = &taps[t];
                    const int8_t *mix = g->mix + t * g->together;
                    if (p->plus_count + p->minus_count == 0) continue;
                    tern_sum_@S@(from, p, l->limit, left, one);
                    for (k = 0; k < g->together; k++) if (mix[k]) tern_mix_@S@(sum[k], one, mix[k], count);
                }
                for (k = 0; k < g->together; k++) {
                    tern_finish_@S@(&l->finish, image, row + k, at, sum[k], residual, out);
                }
            }
        }
    }
}
