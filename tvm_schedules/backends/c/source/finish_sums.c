/* Writes the pixels at, at + 1, ... of a channel from their sums; with the last ones, the halo. Pixels are made four at
   a time; where a block ends with the run, those behind it go nowhere. */
TERN_KERNEL void tern_finish_@S@(const struct tern_finish *f, int32_t image, int32_t channel, int32_t at, const @SUM@ *sum,
                                 const void *residual, void *out)
{
    const int32_t index = image * f->channels + channel;
    const int32_t first = index * f->out.plane + f->out.origin;
    const int32_t beside = index * f->residual_plane + f->residual_origin + at;
    const int32_t count = f->run - at < TERN_BLOCK ? f->run - at : TERN_BLOCK;
    const float scale = f->scale[channel], bias = f->bias[channel], factor = f->factor;
    int32_t i;
#if defined(TERN_MVE)
    const float32x4_t scales = vdupq_n_f32(scale);
#define TERN_EACH_PIXEL(step, more, more4, store, store4) \
    for (i = 0; i < count; i += 4) { \
        float32x4_t y = vfmasq_n_f32(tern_lanes_@S@(sum + i), scales, bias); \
        more4 \
        TERN_ACTIVATE_FOUR(f, y) \
        store4 \
        TERN_KEEP_LOOP(i); \
    }
#else
    int32_t k;
#define TERN_EACH_PIXEL(step, more, more4, store, store4) \
    for (i = 0; i < count; i += step) { \
        for (k = i; k < i + step; k++) { \
            float y = tern_fma((float)sum[k], scale, bias); \
            more \
            TERN_ACTIVATE(f, y) \
            store \
        } \
        TERN_KEEP_LOOP(i); \
    }
#endif
#define TERN_EACH_RESIDUAL(step, store, store4) \
    if (TERN_FLOAT_RESIDUAL && f->residual_float) { \
        const float *r = (const float *)residual + beside; \
        TERN_EACH_PIXEL(step, y = tern_fma(r[k], factor, y);, y = vfmaq_n_f32(y, tern_lanes_f32(r + i), factor);, store, store4) \
    } else if (TERN_BYTE_RESIDUAL && residual) { \
        const uint8_t *r = (const uint8_t *)residual + beside; \
        TERN_EACH_PIXEL(step, y = tern_fma((float)r[k], factor, y);, y = vfmaq_n_f32(y, tern_lanes_u8(r + i), factor);, store, store4) \
    } else { \
        TERN_EACH_PIXEL(step, , , store, store4) \
    }
    if (TERN_FLOAT_OUTPUT && f->output_float) {
        const float low = f->low, high = f->high;
        float *o = (float *)out + first + at, last[TERN_BLOCK], *to = count % 4 ? last : o;
        TERN_EACH_RESIDUAL(1, to[k] = tern_clip(y, low, high);, tern_store_f32(to + i, y, low, high);)
        if (to == last) for (i = 0; i < count; i++) o[i] = last[i];
        if (at + TERN_BLOCK >= f->run) tern_border_f32(&f->out, out, index);
    } else {
#if defined(TERN_FIXED_@S@)
        if (f->fixed) {
            const uint8_t *r = TERN_BYTE_RESIDUAL && residual ? (const uint8_t *)residual + beside : NULL;
            tern_fixed_@S@(f, channel, count, sum, r, (uint8_t *)out + first + at);
            if (at + TERN_BLOCK >= f->run) tern_border_u8(&f->out, out, index);
            return;
        }
#endif
        const tern_bound low = tern_bound_of(f->low), high = tern_bound_of(f->high);
        uint8_t *o = (uint8_t *)out + first + at, last[TERN_BLOCK], *to = count % 4 ? last : o;
        TERN_EACH_RESIDUAL(4, to[k] = tern_byte(y, low, high);, tern_store_u8(to + i, y, low, high);)
        tern_clamp(to, count, low, high);
        if (to == last) for (i = 0; i < count; i++) o[i] = last[i];
        if (at + TERN_BLOCK >= f->run) tern_border_u8(&f->out, out, index);
    }
#undef TERN_EACH_PIXEL
#undef TERN_EACH_RESIDUAL
}
