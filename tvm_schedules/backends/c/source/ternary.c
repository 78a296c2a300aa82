TERN_KERNEL void tern_ternary_@X@(const struct tern_ternary *l, const @XTYPE@ *x, const void *residual, void *out, void *scratch)
{
    const uint8_t *code = l->codes.data;
    tern_offset *table = scratch, *list = table + l->codes.channels * l->codes.taps + 4;
    int32_t row, image, at, t;
    tern_table(&l->codes, table);
    for (row = 0; row < l->rows; row++) {
        const @XTYPE@ *group = x + row / l->group_rows * l->group;
        struct tern_taps taps[TERN_TERMS];
        for (t = 0; t < l->terms; t++) {
            code = tern_offsets(&l->codes, code, table, list + t * l->codes.capacity, &taps[t]);
        }
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                tern_block_@X@(l, taps, row, image, at, group + image * l->image + at, residual, out);
            }
        }
    }
}
