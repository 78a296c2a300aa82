#if defined(TERN_FIXED)
/* Bytes of sums in whole numbers, each with the numbers of its own output; see finish_fixed.c. */
static void tern_linear_fixed(const struct tern_linear *l, int32_t o, int32_t count, const int32_t *sum, uint8_t *to)
{
    const int32_t *number = l->fixed + 2 * o;
    const int32_t shift = l->fixed_shift, bits = l->fixed_bits, low = l->fixed_low, high = l->fixed_high;
    const int32_t lower = ((int32_t)1 << shift) - 1;
    const uint32_t near = (uint32_t)l->fixed_near << (32 - bits);
    int32_t i;
    for (i = 0; i < count; i++, number += 2) {
        int32_t p = (sum[i] >> shift) * number[0] + number[1], whole;
        if (shift) p += (sum[i] & lower) * number[0] >> shift;
        whole = p >> bits;
        whole = whole < low ? low : whole > high ? high : whole;
        if (((uint32_t)p << (32 - bits)) + near <= 2 * near) {
            whole = tern_round(tern_clip(tern_fma((float)sum[i], l->scale[o + i], l->bias[o + i]), l->low, l->high));
        }
        to[i] = (uint8_t)whole;
    }
}
#endif

/* Writes count outputs of row m, from o on, from their integer sums. */
static void tern_linear_put_sums(const struct tern_linear *l, int32_t m, int32_t o, int32_t count, const int32_t *sum,
                                 const void *residual, void *out)
{
    int32_t i = 0;
    if (!residual && !l->output_float) {
        const float *const scale = l->scale + o, *const bias = l->bias + o;
        const tern_bound low = tern_bound_of(l->low), high = tern_bound_of(l->high);
        uint8_t *const to = (uint8_t *)out + m * l->outputs + o;
#if defined(TERN_FIXED)
        if (l->fixed) {
            tern_linear_fixed(l, o, count, sum, to);
            return;
        }
#endif
#if defined(TERN_MVE)
        for (; i + 4 <= count; i += 4) {
            const float32x4_t y = vfmaq_f32(vldrwq_f32(bias + i), tern_lanes_i32(sum + i), vldrwq_f32(scale + i));
            tern_store_u8(to + i, y, low, high);
        }
        for (; i < count; i++) {
            const int32_t y = tern_round(tern_fma((float)sum[i], scale[i], bias[i]));
            to[i] = (uint8_t)(y < low ? low : y > high ? high : y);
        }
#else
        for (; i < count; i++) to[i] = tern_byte(tern_fma((float)sum[i], scale[i], bias[i]), low, high);
        tern_clamp(to, count, low, high);
#endif
    } else {
        float y[TERN_BLOCK];
        for (; i < count; i++) y[i] = (float)sum[i];
        tern_linear_put(l, m, o, count, y, residual, out);
    }
}
