#if TERN_ACTIVATIONS
static float tern_activate(int32_t number, float x);
#endif

/* What follows a sum: y = clip(sum * scale + bias + residual * factor), rounded to 8 bits for an 8-bit output. With an
   activation function, y is what it is of, and then clip(function(y) * step + zero) is rounded. */
struct tern_finish {
    const float *scale, *bias; /* for each channel */
    float factor, low, high;
    int32_t residual_plane, residual_origin;
    uint8_t residual_float, output_float;
    int32_t channels, run; /* run: elements from the first to the last pixel */
    struct tern_planes out;
    const int32_t *fixed; /* for each channel multiplier and addend; NULL: floats */
    int32_t fixed_residual, fixed_shift, fixed_bits, fixed_near, fixed_low, fixed_high;
    int32_t activation; /* number of the function; 0: none */
    float step, zero;
};

#if TERN_ACTIVATIONS
#define TERN_ACTIVATE(f, y) if ((f)->activation) y = tern_fma(tern_activate((f)->activation, y), (f)->step, (f)->zero);
#else
#define TERN_ACTIVATE(f, y)
#endif
#if TERN_ACTIVATIONS && defined(TERN_MVE)
TERN_INLINE float32x4_t tern_activate_four(const struct tern_finish *f, float32x4_t y)
{
    float lanes[4];
    int i;
    if (!f->activation) return y;
    vstrwq_f32(lanes, y);
    for (i = 0; i < 4; i++) TERN_ACTIVATE(f, lanes[i])
    return vldrwq_f32(lanes);
}
#define TERN_ACTIVATE_FOUR(f, y) y = tern_activate_four(f, y);
#else
#define TERN_ACTIVATE_FOUR(f, y)
#endif

#if TERN_MOVED_ROWS
/* Moves count bytes of a row forward (toward lower addresses) or backward; where they came from may overlap with where they go. */
TERN_INLINE void tern_move_row(uint8_t *to, const uint8_t *from, int32_t count)
{
    int32_t i;
#if defined(TERN_MVE)
    if (to < from) for (i = 0; i < count; i += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(count - i));
        vstrbq_p_u8(to + i, vldrbq_z_u8(from + i, some), some);
    } else for (i = (count - 1) / 16 * 16; i >= 0; i -= 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(count - i));
        vstrbq_p_u8(to + i, vldrbq_z_u8(from + i, some), some);
    }
#else
#if !defined(TERN_ALIGNED)
    if (count >= 4) { /* words; the last one, which overlaps with the one before, is read before that is written */
        uint32_t word, last;
        if (to < from) {
            tern_copy_bytes(&last, from + count - 4, 4);
            for (i = 0; i < count - 4; i += 4) {
                tern_copy_bytes(&word, from + i, 4);
                tern_copy_bytes(to + i, &word, 4);
                TERN_KEEP_LOOP(i);
            }
            tern_copy_bytes(to + count - 4, &last, 4);
        } else {
            tern_copy_bytes(&last, from, 4);
            for (i = count - 4; i > 0; i -= 4) {
                tern_copy_bytes(&word, from + i, 4);
                tern_copy_bytes(to + i, &word, 4);
                TERN_KEEP_LOOP(i);
            }
            tern_copy_bytes(to, &last, 4);
        }
        return;
    }
#endif
    if (to < from) for (i = 0; i < count; i++) {
        to[i] = from[i];
        TERN_KEEP_LOOP(i);
    } else for (i = count - 1; i >= 0; i--) {
        to[i] = from[i];
        TERN_KEEP_LOOP(i);
    }
#endif
}

/* Moves a plane's rows of elements of so many bytes from where they were computed to where they belong. */
TERN_KERNEL void tern_move_rows(const struct tern_planes *p, uint8_t *first, int32_t size)
{
    const int32_t count = p->width * size, to = p->row * size, from = p->from_row * size;
    int32_t h;
#if defined(TERN_MVE)
    if (count <= 16) { /* a vector a row; it may be read further than the row, not written */
        const mve_pred16_t some = vctp8q((uint32_t)count);
        const int32_t last = p->height - 1, step = to < from ? 1 : -1;
        const uint8_t *source = first + (to < from ? 1 : last) * from;
        uint8_t *target = first + (to < from ? 1 : last) * to;
        for (h = 0; h < last; h++, source += step * from, target += step * to) {
            vstrbq_p_u8(target, vldrbq_u8(source), some);
        }
        return;
    }
#endif
    if (to < from) for (h = 1; h < p->height; h++) tern_move_row(first + h * to, first + h * from, count);
    else for (h = p->height - 1; h > 0; h--) tern_move_row(first + h * to, first + h * from, count);
}
#endif

/* Puts the rows of a plane of bytes where they belong, and writes its halo: before, between and behind the rows. */
TERN_KERNEL void tern_border_u8(const struct tern_planes *p, uint8_t *out, int32_t index)
{
    uint8_t *first = out + index * p->plane + p->origin;
    const uint8_t fill = (uint8_t)p->fill;
    const int32_t gap = p->row - p->width;
    int32_t d, h, k, at;
#if TERN_PHASES
    if (p->phases) {
        tern_repack_u8_u8(p->phases, first, out + index * p->phases->to[1]);
        return;
    }
#endif
#if TERN_MOVED_ROWS
    if (p->from_row) tern_move_rows(p, first, 1);
#endif
    tern_set_bytes(first - p->front, fill, (size_t)p->front);
    for (d = 0; d < p->depth; d++) {
        at = d * p->slice + p->width;
        if (gap == 0) at += (p->height - 1) * p->row;
        else for (h = 1; h < p->height; h++, at += p->row) {
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

TERN_KERNEL void tern_border_f32(const struct tern_planes *p, float *out, int32_t index)
{
    float *first = out + index * p->plane + p->origin;
    int32_t d, h, at;
#if TERN_MOVED_ROWS
    if (p->from_row) tern_move_rows(p, (uint8_t *)first, sizeof *first);
#endif
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
