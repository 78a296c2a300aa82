#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define tern_copy_bytes __builtin_memcpy
#else
#include <string.h>
#define tern_copy_bytes memcpy
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "pixels are read several at a time, in the order of a little-endian CPU"
#endif

/* Pixels are summed two bytes at a time: a word holds 16-bit lanes. Kernels work on blocks of TERN_BLOCK pixels; they
   may read, never write, up to that many elements past a tensor's last one, which every tensor has room for. */
#if defined(__GNUC__) && (defined(__ARM_NEON) || defined(__SSE2__)) && !defined(TERN_SCALAR)
typedef uint16_t tern_word __attribute__((vector_size(16)));
#define TERN_HIGH(word) ((word) >> 8)
#define TERN_EACH(apply) apply(0) apply(1)
enum { TERN_BLOCK = 32, TERN_PART = 32 };
#else
typedef uint32_t tern_word;
#define TERN_HIGH(word) (((word) >> 8) & 0x00ff00ffu)
#define TERN_EACH(apply) apply(0) apply(1) apply(2)
enum { TERN_BLOCK = 12, TERN_PART = 4 };
#endif

/* a * b + c, rounded once; exact arithmetic in double where the CPU has no such instruction */
#if defined(__GNUC__) && (defined(__ARM_FEATURE_FMA) || defined(__FMA__) || defined(__FP_FAST_FMAF))
#if defined(__clang__) && defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_fma)
#define tern_fma __builtin_elementwise_fma /* an instruction also with -fno-builtin, where clang calls fmaf */
#endif
#endif
#ifndef tern_fma
#define tern_fma __builtin_fmaf
#endif
#else
static inline float tern_fma(float a, float b, float c)
{
    const double product = (double)a * (double)b; /* exact */
    double sum = product + (double)c;
    const double part = sum - product;
    const double error = (product - (sum - part)) + ((double)c - part); /* of sum, exact */
    uint64_t bits;
    tern_copy_bytes(&bits, &sum, sizeof bits);
    if ((error > 0 || error < 0) && !(bits & 1)) { /* to the odd neighbor, so that rounding to float is the only rounding */
        bits += (error > 0) == (sum > 0) ? 1 : (uint64_t)-1;
        tern_copy_bytes(&sum, &bits, sizeof sum);
    }
    return (float)sum;
}
#endif

static inline float tern_clip(float y, float low, float high)
{
    y = y > low ? y : low;
    return y < high ? y : high;
}

/* To the nearest integer, ties to even, for |y| < 2**22: 1.5 * 2**23 leaves it in the low bits of the mantissa. */
static inline int32_t tern_round(float y)
{
    uint32_t bits;
    y += 12582912.0f;
    tern_copy_bytes(&bits, &y, sizeof bits);
    return (int32_t)(bits - 0x4b400000u);
}

/* A tensor in planes, one for each channel, with halos: the padding of convolutions lies around and between the rows. */
struct tern_planes {
    int32_t plane, origin; /* elements from plane to plane; index of the first pixel */
    int32_t front, end;    /* halo before the first pixel; end of the halo, counted from the first pixel */
    int32_t depth, height, width, slice, row; /* pixels; elements from slice to slice and from row to row */
    float fill;            /* what the halo holds */
};

/* What follows a sum: y = clip(sum * scale + bias + residual * factor), rounded to 8 bits for an 8-bit output. */
struct tern_finish {
    const float *scale, *bias; /* for each channel */
    float factor, low, high;
    int32_t residual_plane, residual_origin;
    uint8_t residual_float, output_float;
    int32_t channels, run; /* run: elements from the first to the last pixel */
    struct tern_planes out;
};

static void tern_fill(void *plane, int32_t from, int32_t count, float value, int is_float)
{
    int32_t i;
    if (TERN_FLOAT_OUTPUT && is_float) {
        float *out = (float *)plane + from;
        for (i = 0; i < count; i++) out[i] = value;
    } else {
        uint8_t *out = (uint8_t *)plane + from;
        for (i = 0; i < count; i++) out[i] = (uint8_t)value;
    }
}

/* Writes the halo of a plane: before, between and behind the rows. */
static void tern_border(const struct tern_planes *p, int32_t index, void *out, int is_float)
{
    const int32_t first = index * p->plane + p->origin;
    int32_t d, h, at = 0;
    tern_fill(out, first - p->front, p->front, p->fill, is_float);
    for (d = 0; d < p->depth; d++) {
        for (h = 0; h < p->height; h++) {
            const int32_t row = d * p->slice + h * p->row;
            tern_fill(out, first + at, row - at, p->fill, is_float);
            at = row + p->width;
        }
    }
    tern_fill(out, first + at, p->end - at, p->fill, is_float);
}

/* Writes the pixels at, at + 1, ... of a channel from their sums y, which are used up; with the last ones, the halo. */
static void tern_finish(const struct tern_finish *f, int32_t image, int32_t channel, int32_t at, float *y,
                        const void *residual, void *out)
{
    const int32_t index = image * f->channels + channel;
    const int32_t to = index * f->out.plane + f->out.origin + at;
    const int32_t beside = index * f->residual_plane + f->residual_origin + at;
    const int32_t count = f->run - at < TERN_BLOCK ? f->run - at : TERN_BLOCK;
    const float scale = f->scale[channel], bias = f->bias[channel], low = f->low, high = f->high;
    int32_t i;
    for (i = 0; i < count; i++) y[i] = tern_fma(y[i], scale, bias);
    if (TERN_FLOAT_RESIDUAL && f->residual_float) {
        const float *r = (const float *)residual + beside;
        for (i = 0; i < count; i++) y[i] = tern_fma(r[i], f->factor, y[i]);
    } else if (TERN_BYTE_RESIDUAL && residual) {
        const uint8_t *r = (const uint8_t *)residual + beside;
        for (i = 0; i < count; i++) y[i] = tern_fma((float)r[i], f->factor, y[i]);
    }
    if (TERN_FLOAT_OUTPUT && f->output_float) {
        float *o = (float *)out + to;
        for (i = 0; i < count; i++) o[i] = tern_clip(y[i], low, high);
    } else {
        uint8_t *o = (uint8_t *)out + to;
        for (i = 0; i < count; i++) o[i] = (uint8_t)tern_round(tern_clip(y[i], low, high));
    }
    if (at + TERN_BLOCK >= f->run) tern_border(&f->out, index, out, f->output_float);
}
