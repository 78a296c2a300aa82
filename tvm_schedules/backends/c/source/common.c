#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define tern_copy_bytes __builtin_memcpy
#define tern_set_bytes __builtin_memset
#define TERN_KEEP_LOOP(i) __asm__("" : "+r"(i)) /* a loop that is neither unrolled nor made a call of memset */
#else
#include <string.h>
#define tern_copy_bytes memcpy
#define tern_set_bytes memset
#define TERN_KEEP_LOOP(i) ((void)(i))
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "pixels are read several at a time, in the order of a little-endian CPU"
#endif

/* The code has a variant for what the CPU has; all give the same numbers. Kernels work on blocks of TERN_BLOCK pixels; they
   may read, never write, up to that many elements past a tensor's last one, which every tensor has room for. Dense
   weights are multiplied with TERN_PART pixels at a time. TERN_SCALAR asks for plain C. */
#if defined(TERN_SCALAR) || !defined(__GNUC__)
#define TERN_WORDS 1
#elif defined(__ARM_NEON) || defined(__SSE2__) || (defined(__riscv_vector) && defined(__clang__))
#define TERN_VECTORS 1 /* of 16 bytes, by the compiler's vector types */
#elif defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE >= 3
#include <arm_mve.h>
#define TERN_MVE 1     /* Helium: Cortex-M55, M85 */
#define TERN_DSP 1
#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && defined(__ARM_FEATURE_UNALIGNED)
#define TERN_DSP 1     /* two 16-bit lanes a register: Cortex-M4, M7, M33 */
#else
#define TERN_WORDS 1
#endif

/* What differs by core, as tables do. */
#if defined(TERN_MVE)
#define TERN_BY_CORE(plain, dsp, mve) mve
#elif defined(TERN_DSP)
#define TERN_BY_CORE(plain, dsp, mve) dsp
#else
#define TERN_BY_CORE(plain, dsp, mve) plain
#endif

/* Nothing is read that does not lie aligned, or compilers would read bytes. */
#if defined(__GNUC__) && ((defined(__arm__) && !defined(__ARM_FEATURE_UNALIGNED)) \
    || (defined(__riscv) && !defined(__riscv_misaligned_fast)))
#define TERN_ALIGNED 1
#endif

#if defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP) && !defined(__SOFTFP__) && !defined(TERN_SCALAR)
#define TERN_CONVERTS 1 /* floats are rounded to integers, as the rounding mode says, by an instruction that saturates */
#endif

/* Without floating point, bytes are made from sums in whole numbers, the same ones; a few are decided by the floats. So
   it is where a double is no longer than a float (AVR), which would not do for tern_fma_double. */
#if defined(__SOFTFP__) || (defined(__riscv) && !defined(__riscv_flen)) \
    || (defined(__SIZEOF_DOUBLE__) && __SIZEOF_DOUBLE__ < 8)
#define TERN_FIXED 1
#endif
#if defined(TERN_FIXED)
#define TERN_FIXED_TABLE(table) table
#else
#define TERN_FIXED_TABLE(table) NULL
#endif

/* Loops are worth their size also where the rest of a firmware is compiled for size (-DTERN_AS_COMPILED: not here). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && UINTPTR_MAX == 0xffffffffu \
    && !defined(TERN_AS_COMPILED)
#pragma GCC optimize("O3")
#endif

/* Alignment of the arena, also where no type asks for it. */
#if defined(__GNUC__)
#define TERN_EIGHT __attribute__((aligned(8)))
#else
#define TERN_EIGHT
#endif

/* Helpers, which not every network uses. */
#if defined(__GNUC__)
#define TERN_INLINE static inline __attribute__((unused))
#else
#define TERN_INLINE static inline
#endif

/* Once in the program, not once for every layer: the compiler would copy kernels to fit the layers' numbers. */
#if defined(__GNUC__) && !defined(__clang__)
#define TERN_KERNEL static __attribute__((noinline, noclone))
#elif defined(__GNUC__)
#define TERN_KERNEL static __attribute__((noinline))
#else
#define TERN_KERNEL static
#endif

#if defined(TERN_VECTORS)
enum { TERN_BLOCK = 32, TERN_PART = 32 };
#elif defined(TERN_MVE)
enum { TERN_BLOCK = 32, TERN_PART = 16 };
#elif defined(TERN_DSP)
enum { TERN_BLOCK = 16, TERN_PART = 8 };
#else
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
TERN_INLINE float tern_fma_double(float a, float b, float c)
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
#if defined(TERN_FIXED)
#if defined(__GNUC__)
__attribute__((unused))
#endif
static float tern_fma(float a, float b, float c); /* fma.c: in whole numbers */
#else
#define tern_fma tern_fma_double
#endif
#endif

TERN_INLINE float tern_clip(float y, float low, float high)
{
    y = y > low ? y : low;
    return y < high ? y : high;
}

/* To the nearest integer, ties to even. */
TERN_INLINE int32_t tern_round(float y)
{
#if defined(TERN_CONVERTS)
    float bits;
    int32_t whole;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(bits) : "t"(y));
    tern_copy_bytes(&whole, &bits, sizeof whole);
    return whole;
#else
    uint32_t bits; /* for |y| < 2**22: 1.5 * 2**23 leaves it in the low bits of the mantissa */
    y += 12582912.0f;
    tern_copy_bytes(&bits, &y, sizeof bits);
    return (int32_t)(bits - 0x4b400000u);
#endif
}

/* Of sums that become bytes: first all bytes are written, then tern_clamp holds them within the bounds. */
#if defined(TERN_CONVERTS)
typedef int32_t tern_bound; /* rounding keeps the order, so it may come before clipping */
#define tern_bound_of tern_round
TERN_INLINE uint8_t tern_byte(float y, tern_bound low, tern_bound high)
{
    int32_t whole = tern_round(y);
    (void)low, (void)high;
    __asm__("usat %0, #8, %1" : "=r"(whole) : "r"(whole));
    return (uint8_t)whole;
}
TERN_INLINE void tern_clamp(uint8_t *out, int32_t count, tern_bound low, tern_bound high)
{
#if defined(TERN_MVE)
    (void)out, (void)count, (void)low, (void)high; /* vectors are clipped as they are made */
#else
    if (low > 0 || high < 255) for (; count-- > 0; out++) *out = (uint8_t)(*out < low ? low : *out > high ? high : *out);
#endif
}
#else
typedef float tern_bound;
#define tern_bound_of(y) (y)
TERN_INLINE uint8_t tern_byte(float y, tern_bound low, tern_bound high)
{
    return (uint8_t)tern_round(tern_clip(y, low, high));
}
#define tern_clamp(out, count, low, high) ((void)0)
#endif

/* A tensor in planes, one for each channel, with halos: the padding of convolutions lies around and between the rows. */
struct tern_planes {
    int32_t plane, origin; /* elements from plane to plane; index of the first pixel */
    int32_t front, end;    /* halo before the first pixel; end of the halo, counted from the first pixel */
    int32_t depth, height, width, slice, row; /* pixels; elements from slice to slice and from row to row */
    int32_t from_row;      /* elements from row to row as pixels are computed, 0: the same */
    float fill;            /* what the halo holds */
#if TERN_PHASES
    const struct tern_repack *phases; /* how a plane becomes phases; NULL: it stays a plane */
#endif
};
