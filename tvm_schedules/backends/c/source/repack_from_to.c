/* A row of count elements, every step-th of x. */
static inline void tern_repack_row_@X@_@Y@(const struct tern_repack *l, const @XTYPE@ *x, int32_t step, @YTYPE@ *out,
                                        int32_t out_step, int32_t count)
{
    int32_t w = 0;
#if defined(TERN_MVE)
    if (sizeof *x == 1 && sizeof *out == 1 && out_step == 1 && step <= 17) { /* every step-th of 16 bytes at a time */
        const uint8x16_t each = vmulq_n_u8(vidupq_n_u8(0, 1), (uint8_t)step);
        for (; w < count; w += 16) {
            const mve_pred16_t some = vctp8q((uint32_t)(count - w));
            vstrbq_p_u8((uint8_t *)out + w, vldrbq_gather_offset_z_u8((const uint8_t *)x + w * step, each, some), some);
        }
        return;
    }
#endif
    for (; w + 4 <= count; w += 4, x += 4 * step, out += 4 * out_step) {
        out[0] = @CONVERT:x[0]@;
        out[out_step] = @CONVERT:x[step]@;
        out[2 * out_step] = @CONVERT:x[2 * step]@;
        out[3 * out_step] = @CONVERT:x[3 * step]@;
    }
    for (; w < count; w++, x += step, out += out_step) {
        out[0] = @CONVERT:x[0]@;
        TERN_KEEP_LOOP(w);
    }
    (void)l; /* where nothing is converted */
}

/* A channel of an image, into as many planes as there are phases. */
static inline void tern_repack_channel_@X@_@Y@(const struct tern_repack *l, const @XTYPE@ *x, @YTYPE@ *out)
{
    const int32_t step = l->from[4] * l->steps[2], out_step = l->to[4];
    int32_t i, j, k, d, h;
    if (sizeof *out != 1) for (i = 0; i < l->to_elements; i++) out[l->to_fill + i] = (@YTYPE@)l->fill;
    else if (l->to_elements) tern_set_bytes(out + l->to_fill, (uint8_t)l->fill, (size_t)l->to_elements);
    out += l->to_origin;
    for (i = 0; i < l->steps[0]; i++)
    for (j = 0; j < l->steps[1]; j++)
    for (k = 0; k < l->steps[2]; k++, out += l->to_plane) {
        const int32_t count = (l->width - k + l->steps[2] - 1) / l->steps[2];
        const @XTYPE@ *slice = x + i * l->from[2] + j * l->from[3] + k * l->from[4];
        @YTYPE@ *out_slice = out;
        for (d = i; d < l->depth; d += l->steps[0], slice += l->steps[0] * l->from[2], out_slice += l->to[2]) {
            const @XTYPE@ *from = slice;
            @YTYPE@ *to = out_slice;
            for (h = j; h < l->height; h += l->steps[1], from += l->steps[1] * l->from[3], to += l->to[3]) {
                if (sizeof *from != sizeof *to) tern_repack_row_@X@_@Y@(l, from, step, to, out_step, count);
                else if (step == 1 && out_step == 1) tern_repack_row_@X@_@Y@(l, from, 1, to, 1, count);
                else if (step == 2 && out_step == 1) tern_repack_row_@X@_@Y@(l, from, 2, to, 1, count);
                else tern_repack_row_@X@_@Y@(l, from, step, to, out_step, count);
            }
        }
    }
}

/* One channel after the other: they may come to lie over those of x that have been read. */
TERN_KERNEL void tern_repack_@X@_@Y@(const struct tern_repack *l, const @XTYPE@ *x, @YTYPE@ *out)
{
    int32_t n, c;
    for (n = 0; n < l->images; n++) {
        for (c = 0; c < l->channels; c++) {
            tern_repack_channel_@X@_@Y@(l, x + l->from_origin + n * l->from[0] + c * l->from[1],
                                        out + n * l->to[0] + c * l->to[1]);
        }
    }
}
