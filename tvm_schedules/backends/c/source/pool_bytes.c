/* The same of bytes: maxima and sums in whole numbers. A share that is a power of two stands in the epilogue's scale. */
TERN_INLINE void tern_max_u8(const uint8_t *x, const tern_offset *tap, int32_t taps, int32_t count, uint8_t *y)
{
    int32_t i, t;
#if defined(TERN_MVE)
    for (i = 0; i < count; i += 16) {
        uint8x16_t most = vldrbq_u8(x + tap[0] + i);
        for (t = 1; t < taps; t++) most = vmaxq_u8(most, vldrbq_u8(x + tap[t] + i));
        vstrbq_u8(y + i, most);
    }
#elif defined(TERN_DSP)
    for (i = 0; i < count; i += 4) {
        uint32_t most = tern_word_at(x + tap[0] + i);
        for (t = 1; t < taps; t++) {
            uint32_t other = tern_word_at(x + tap[t] + i), apart;
            __asm__("usub8 %1, %0, %2\n\tsel %0, %0, %2" : "+r"(most), "=&r"(apart) : "r"(other) : "cc");
        }
        tern_copy_bytes(y + i, &most, sizeof most);
    }
#else
    for (i = 0; i < count; i++) {
        uint8_t most = x[tap[0] + i];
        for (t = 1; t < taps; t++) most = x[tap[t] + i] > most ? x[tap[t] + i] : most;
        y[i] = most;
        TERN_KEEP_LOOP(i);
    }
#endif
}

TERN_KERNEL void tern_pool_bytes_u8(const struct tern_pool *l, const uint8_t *x, const void *residual, void *out)
{
    const int32_t zeros = (int32_t)l->zeros;
    int32_t image, channel, at, i;
    for (image = 0; image < l->images; image++) {
        for (channel = 0; channel < l->channels; channel++, x += l->plane) {
            for (at = 0; at < l->finish.run; at += TERN_BLOCK) {
                const int32_t left = l->finish.run - at, count = left < TERN_BLOCK ? left : TERN_BLOCK;
                int16_t sum[TERN_BLOCK];
                if (l->average) {
                    tern_sum_u8(x + at, l->tap, l->taps, l->tap, 0, left, sum);
#if TERN_SHARES
                    if (l->shares) {
                        float y[TERN_BLOCK] = {0};
                        for (i = 0; i < count; i++) {
                            y[i] = ((float)sum[i] - l->zeros) * (l->divisor ? l->divisor[at + i] : l->share);
                        }
                        tern_finish_f32(&l->finish, image, channel, at, y, residual, out);
                        continue;
                    }
#endif
                    if (zeros) for (i = 0; i < count; i++) sum[i] = (int16_t)(sum[i] - zeros);
                } else {
                    uint8_t most[TERN_BLOCK];
                    tern_max_u8(x + at, l->tap, l->taps, count, most);
                    if (l->same) { /* the pixels are what is stored */
                        const int32_t index = image * l->channels + channel;
                        uint8_t *to = (uint8_t *)out + index * l->finish.out.plane + l->finish.out.origin;
                        for (i = 0; i < count; i++) to[at + i] = most[i];
                        if (left <= TERN_BLOCK) tern_border_u8(&l->finish.out, out, index);
                        continue;
                    }
                    for (i = 0; i < count; i++) sum[i] = most[i];
                }
                tern_finish_i16(&l->finish, image, channel, at, sum, residual, out);
            }
        }
    }
}
