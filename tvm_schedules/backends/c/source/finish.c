/* What follows a sum: y = clip(sum * scale + bias + residual * factor), rounded to 8 bits for an 8-bit output. */
struct tern_finish {
    const float *scale, *bias; /* for each channel */
    float factor, low, high;
    int32_t residual_plane, residual_origin;
    uint8_t residual_float, output_float;
    int32_t channels, run; /* run: elements from the first to the last pixel */
    struct tern_planes out;
    const int32_t *fixed; /* for each channel multiplier and addend; NULL: floats */
    int32_t fixed_residual, fixed_shift, fixed_bits, fixed_near, fixed_low, fixed_high;
};

/* Writes the halo of a plane of bytes: before, between and behind the rows. */
TERN_KERNEL void tern_border_u8(const struct tern_planes *p, uint8_t *first)
{
    const uint8_t fill = (uint8_t)p->fill;
    int32_t d, h, at = 0;
    tern_set_bytes(first - p->front, fill, (size_t)p->front);
    for (d = 0; d < p->depth; d++) {
        int32_t row = d * p->slice;
        for (h = 0; h < p->height; h++, row += p->row) {
            for (; at < row; at++) {
                first[at] = fill;
                TERN_KEEP_LOOP(at);
            }
            at = row + p->width;
        }
    }
    tern_set_bytes(first + at, fill, (size_t)(p->end - at));
}

TERN_KERNEL void tern_border_f32(const struct tern_planes *p, float *first)
{
    int32_t d, h, at;
    for (at = -p->front; at < 0; at++) first[at] = p->fill;
    for (d = 0; d < p->depth; d++) {
        for (h = 0; h < p->height; h++) {
            const int32_t row = d * p->slice + h * p->row;
            for (; at < row; at++) first[at] = p->fill;
            at = row + p->width;
        }
    }
    for (; at < p->end; at++) first[at] = p->fill;
}
