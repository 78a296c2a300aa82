TERN_KERNEL void tern_pool_@X@(const struct tern_pool *l, const @XTYPE@ *x, const void *residual, void *out)
{
    int32_t image, channel, at, tap, i;
    for (image = 0; image < l->images; image++) {
        for (channel = 0; channel < l->channels; channel++, x += l->plane) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                float y[TERN_BLOCK];
                for (i = 0; i < TERN_BLOCK; i++) y[i] = (float)x[l->tap[0] + at + i];
                for (tap = 1; tap < l->taps; tap++) {
                    const @XTYPE@ *from = x + l->tap[tap] + at;
                    if (l->average) for (i = 0; i < TERN_BLOCK; i++) y[i] += (float)from[i];
                    else for (i = 0; i < TERN_BLOCK; i++) y[i] = (float)from[i] > y[i] ? (float)from[i] : y[i];
                }
                if (l->average) {
                    for (i = 0; i < TERN_BLOCK && at + i < l->finish.run; i++) {
                        y[i] = (y[i] - l->zeros) * (l->divisor ? l->divisor[at + i] : l->share);
                    }
                }
                tern_finish_f32(&l->finish, image, channel, at, y, residual, out);
            }
        }
    }
}
