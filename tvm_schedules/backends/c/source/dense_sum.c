static void tern_dense_@X@_@W@(const struct tern_dense *l, const @XTYPE@ *x, const void *residual, void *out)
{
    int32_t row, image, at, part, channel, tap, i;
    for (row = 0; row < l->rows; row++) {
        const @XTYPE@ *group = x + row / l->group_rows * l->group;
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                float y[TERN_BLOCK];
                for (part = 0; part < TERN_BLOCK; part += TERN_PART) {
                    const @XTYPE@ *base = group + image * l->image + at + part;
                    const @WTYPE@ *weight = (const @WTYPE@ *)l->weight + row * l->channels * l->taps;
                    @SUM@ sum[TERN_PART] = {0};
                    for (channel = 0; channel < l->channels; channel++, base += l->channel) {
                        for (tap = 0; tap < l->taps; tap++) {
                            const @XTYPE@ *from = base + l->tap[tap];
                            const @SUM@ w = *weight++;
                            for (i = 0; i < TERN_PART; i++) sum[i] = @MAC:from[i]@;
                        }
                    }
                    for (i = 0; i < TERN_PART; i++) y[part + i] = (float)sum[i];
                }
                tern_finish(&l->finish, image, row, at, y, residual, out);
            }
        }
    }
}
