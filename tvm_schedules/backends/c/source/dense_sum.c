TERN_KERNEL void tern_dense_@X@_@W@(const struct tern_dense *l, const @XTYPE@ *x, const void *residual, void *out)
{
    int32_t row, image, at, channel, tap, i;
    for (row = 0; row < l->rows; row++) {
        const @XTYPE@ *group = x + row / l->group_rows * l->group;
        for (image = 0; image < l->images; image++) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                const @XTYPE@ *base = group + image * l->image + at;
                const @WTYPE@ *weight = (const @WTYPE@ *)l->weight + row * l->channels * l->taps;
                float sum[TERN_BLOCK] = {0};
                for (channel = 0; channel < l->channels; channel++, base += l->channel) {
                    for (tap = 0; tap < l->taps; tap++) {
                        const @XTYPE@ *from = base + l->tap[tap];
                        const float w = *weight++;
                        for (i = 0; i < TERN_BLOCK; i++) sum[i] = tern_fma((float)from[i], w, sum[i]);
                    }
                }
                tern_finish_f32(&l->finish, image, row, at, sum, residual, out);
            }
        }
    }
}
