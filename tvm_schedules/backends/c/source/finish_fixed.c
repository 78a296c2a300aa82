#if defined(TERN_FIXED)
#define TERN_FIXED_@S@ 1

/* The same in floats, for what lies too near to the middle between two bytes. */
TERN_KERNEL int32_t tern_decide_@S@(const struct tern_finish *f, int32_t channel, int32_t sum, int32_t residual)
{
    float y = tern_fma((float)sum, f->scale[channel], f->bias[channel]);
    if (TERN_BYTE_RESIDUAL && residual >= 0) y = tern_fma((float)residual, f->factor, y);
    return tern_round(tern_clip(y, f->low, f->high));
}

/* Bytes of sums in whole numbers of 32 bits: the floats' bytes, bit for bit. */
static void tern_fixed_@S@(const struct tern_finish *f, int32_t channel, int32_t count, const @SUM@ *sum,
                           const uint8_t *residual, uint8_t *out)
{
    const int32_t scale = f->fixed[2 * channel], bias = f->fixed[2 * channel + 1], shift = f->fixed_shift;
    const int32_t bits = f->fixed_bits, low = f->fixed_low, high = f->fixed_high, lower = ((int32_t)1 << shift) - 1;
    const int32_t factor = bias == INT32_MIN ? 0 : f->fixed_residual; /* such a channel is floats' alone */
    const uint32_t near = (uint32_t)f->fixed_near << (32 - bits);
    int32_t i;
#define TERN_EACH_FIXED(upper, more) \
    for (i = 0; i < count; i++) { \
        int32_t p = (upper) * scale + bias, whole; \
        more \
        if (TERN_BYTE_RESIDUAL && residual) p += residual[i] * factor; \
        whole = p >> bits; \
        whole = whole < low ? low : whole > high ? high : whole; \
        if (((uint32_t)p << (32 - bits)) + near <= 2 * near) { \
            whole = tern_decide_@S@(f, channel, sum[i], TERN_BYTE_RESIDUAL && residual ? residual[i] : -1); \
        } \
        out[i] = (uint8_t)whole; \
    }
#define TERN_LOWER p += (sum[i] & lower) * scale >> shift;
#if defined(__clang__)
    /* It would compute the lower bits of short sums too, to leave them away; GCC does not, and takes more for two loops. */
    if (shift) {
        TERN_EACH_FIXED(sum[i] >> shift, TERN_LOWER)
    } else {
        TERN_EACH_FIXED(sum[i], )
    }
#else
    TERN_EACH_FIXED(sum[i] >> shift, if (shift) TERN_LOWER)
#endif
#undef TERN_LOWER
#undef TERN_EACH_FIXED
}
#endif
