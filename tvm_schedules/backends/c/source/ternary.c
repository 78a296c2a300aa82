static void tern_ternary_@X@(const struct tern_ternary *l, const @XTYPE@ *x, const void *residual, void *out, void *scratch)
{
    const uint8_t *code = l->codes.data;
    tern_offset *table = scratch, *list = table + l->codes.channels * l->codes.taps + 4;
    int32_t row, image, at, t, i;
    tern_table(&l->codes, table);
    for (row = 0; row < l->rows; row++) {
        const @XTYPE@ *group = x + row / l->group_rows * l->group;
        struct tern_taps taps[TERN_TERMS];
        for (t = 0; t < l->terms; t++) {
            code = tern_offsets(&l->codes, code, table, list + t * l->codes.capacity, &taps[t]);
        }
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                const @XTYPE@ *from = group + image * l->image + at;
                float y[TERN_BLOCK];
                for (i = 0; i < TERN_BLOCK; i++) y[i] = 0;
                for (t = 0; t < l->terms; t++) {
                    const struct tern_taps *p = &taps[t];
                    const float *level = l->level ? l->level + 2 * (row * l->terms + t) : NULL;
                    const int apart = l->unequal >> t & 1;
                    tern_term_@X@(from, l->limit, p->plus, p->plus_count, p->minus, apart ? 0 : p->minus_count,
                                 level ? level[0] : 0, y);
                    if (apart) tern_term_@X@(from, l->limit, p->plus, 0, p->minus, p->minus_count, level[1], y);
                }
                tern_finish(&l->finish, image, row, at, y, residual, out);
            }
        }
    }
}
