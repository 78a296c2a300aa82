/* Writes count outputs of row m, from o on, from their integer sums. */
static void tern_linear_put_sums(const struct tern_linear *l, int32_t m, int32_t o, int32_t count, const int32_t *sum,
                                 const void *residual, void *out)
{
    int32_t i = 0;
    if (!residual && !l->output_float) {
        const float *const scale = l->scale + o, *const bias = l->bias + o;
        const tern_bound low = tern_bound_of(l->low), high = tern_bound_of(l->high);
        uint8_t *const to = (uint8_t *)out + m * l->outputs + o;
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
