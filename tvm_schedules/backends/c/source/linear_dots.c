/* Sums of products of bytes with four rows of weights, each stride behind the one before. */
static inline void tern_dots(const uint8_t *x, const int8_t *weight, int32_t stride, int32_t count, int32_t *sum)
{
    int32_t k = 0, r;
#if defined(TERN_MVE)
    int32_t all[4] = {0};
#endif
    for (r = 0; r < 4; r++) sum[r] = 0;
#if defined(TERN_MVE)
    for (; k + 16 <= count; k += 16) { /* of x - 128, which is signed, and 128 times the weights */
        const int8x16_t lanes = vreinterpretq_s8_u8(veorq_u8(vldrbq_u8(x + k), vdupq_n_u8(128)));
        for (r = 0; r < 4; r++) {
            const int8x16_t w = vldrbq_s8(weight + r * stride + k);
            sum[r] = vmladavaq_s8(sum[r], lanes, w);
            all[r] = vaddvaq_s8(all[r], w);
        }
    }
    for (r = 0; r < 4; r++) sum[r] += 128 * all[r];
#elif defined(TERN_DSP)
    {
        const int8_t *w0 = weight, *w2 = weight + 2 * stride;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (; k + 4 <= count; k += 4, x += 4, w0 += 4, w2 += 4) {
            const uint32_t word = tern_word_at(x), even = tern_even(word), odd = tern_odd(word);
            s0 = tern_dot(w0, even, odd, s0);
            s1 = tern_dot(w0 + stride, even, odd, s1);
            s2 = tern_dot(w2, even, odd, s2);
            s3 = tern_dot(w2 + stride, even, odd, s3);
            TERN_KEEP_LOOP(w0); /* not as four pointers, for which there are no registers */
            TERN_KEEP_LOOP(w2);
        }
        x -= k;
        sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3;
    }
#endif
    for (; k < count; k++) for (r = 0; r < 4; r++) sum[r] += x[k] * weight[r * stride + k];
}

/* Bytes times dense weights of 8 bits, four outputs at a time. */
TERN_KERNEL void tern_linear_dots(const struct tern_linear *l, const uint8_t *x, const void *residual, void *out)
{
    const int8_t *const weight = l->weight;
    int32_t m, o, k, r, sum[4];
    float y[4];
    for (m = 0; m < l->rows; m++, x += l->inputs) {
        for (o = 0; o + 4 <= l->outputs; o += 4) {
            tern_dots(x, weight + o * l->inputs, l->inputs, l->inputs, sum);
            for (r = 0; r < 4; r++) y[r] = (float)sum[r];
            tern_linear_put(l, m, o, 4, y, residual, out);
        }
        for (; o < l->outputs; o++) {
            int32_t one = 0;
            for (k = 0; k < l->inputs; k++) one += x[k] * weight[o * l->inputs + k];
            y[0] = (float)one;
            tern_linear_put(l, m, o, 1, y, residual, out);
        }
    }
}
