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
    const int32_t gap = p->row - p->width;
    int32_t d, h, k, at;
    tern_set_bytes(first - p->front, fill, (size_t)p->front);
    for (d = 0; d < p->depth; d++) {
        at = d * p->slice + p->width;
        for (h = 1; h < p->height; h++, at += p->row) {
            if (gap == 1) first[at] = fill;
            else if (gap == 2) first[at] = first[at + 1] = fill;
            else for (k = 0; k < gap; k++) {
                first[at + k] = fill;
                TERN_KEEP_LOOP(k);
            }
        }
        tern_set_bytes(first + at, fill, (size_t)((d + 1 < p->depth ? (d + 1) * p->slice : p->end) - at));
    }
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
