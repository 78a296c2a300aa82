#if defined(TERN_WORDS) || defined(TERN_VECTORS)
/* Pixels are summed two bytes at a time: a word holds 16-bit lanes. */
#if defined(TERN_VECTORS)
typedef uint16_t tern_word __attribute__((vector_size(16)));
#define TERN_HIGH(word) ((word) >> 8)
#define TERN_EACH(apply) apply(0) apply(1)
#else
typedef uint32_t tern_word;
#define TERN_HIGH(word) (((word) >> 8) & 0x00ff00ffu)
#define TERN_EACH(apply) apply(0) apply(1) apply(2)
#endif

/* all: sum of words; odd: of their odd bytes, in 16-bit lanes. Neither has lost a carry: all - (odd << 8) is exact. */
static inline void tern_split(tern_word all, tern_word odd, int16_t *sum)
{
    all -= odd << 8;
#if defined(TERN_VECTORS)
    {
        int i;
        for (i = 0; i < 8; i++) {
            sum[2 * i] = (int16_t)all[i];
            sum[2 * i + 1] = (int16_t)odd[i];
        }
    }
#else
    sum[0] = (int16_t)all;
    sum[1] = (int16_t)odd;
    sum[2] = (int16_t)((all - (uint32_t)(int32_t)sum[0]) >> 16);
    sum[3] = (int16_t)((odd - (uint32_t)(int32_t)sum[1]) >> 16);
#endif
}

#if defined(TERN_ALIGNED) && defined(TERN_WORDS)
/* Words, halfwords or bytes are read, whatever lies aligned: the core has no other access. */
#define TERN_WORD(i) ((const uint32_t *)__builtin_assume_aligned(from, 4))[i]
#define TERN_HALF(i) ((const uint16_t *)__builtin_assume_aligned(from, 2))[i]
#define TERN_TAKE(i, op, word) { const uint32_t w = word; all##i op w; odd##i op TERN_HIGH(w); }
#define TERN_PLUS(i) TERN_TAKE(i, +=, TERN_WORD(i))
#define TERN_MINUS(i) TERN_TAKE(i, -=, TERN_WORD(i))
#define TERN_PLUS_2(i) TERN_TAKE(i, +=, TERN_HALF(2 * i) | (uint32_t)TERN_HALF(2 * i + 1) << 16)
#define TERN_MINUS_2(i) TERN_TAKE(i, -=, TERN_HALF(2 * i) | (uint32_t)TERN_HALF(2 * i + 1) << 16)
#define TERN_BYTES(i, op) { \
        const uint32_t high = from[4 * i + 1] | (uint32_t)from[4 * i + 3] << 16; \
        odd##i op high; \
        all##i op high << 8; \
        all##i op from[4 * i]; \
        all##i op (uint32_t)from[4 * i + 2] << 16; \
    }
#define TERN_PLUS_1(i) TERN_BYTES(i, +=)
#define TERN_MINUS_1(i) TERN_BYTES(i, -=)
#define TERN_TAP(sign) \
    if ((uintptr_t)from & 1) { TERN_EACH(sign##_1) } \
    else if ((uintptr_t)from & 2) { TERN_EACH(sign##_2) } \
    else { TERN_EACH(sign) }
#else
static inline tern_word tern_load(const uint8_t *x)
{
    tern_word word;
    tern_copy_bytes(&word, x, sizeof word);
    return word;
}

#define TERN_TAKE(i, op) { const tern_word w = tern_load(from + i * sizeof w); all##i op w; odd##i op TERN_HIGH(w); }
#define TERN_PLUS(i) TERN_TAKE(i, +=)
#define TERN_MINUS(i) TERN_TAKE(i, -=)
#define TERN_TAP(sign) TERN_EACH(sign)
#endif

/* Sums of a block of pixels. */
static void tern_sum_u8(const uint8_t *x, const tern_offset *plus, int32_t plus_count, const tern_offset *minus,
                        int32_t minus_count, int32_t count, int16_t *sum)
{
#define TERN_ZERO(i) tern_word all##i = {0}, odd##i = {0};
#define TERN_SPLIT(i) tern_split(all##i, odd##i, sum + i * sizeof(tern_word));
    (void)count; /* of the pixels that matter: all of a block are summed */
    TERN_EACH(TERN_ZERO)
    while (plus_count-- > 0) {
        const uint8_t *from = x + *plus++;
        TERN_TAP(TERN_PLUS)
    }
    while (minus_count-- > 0) {
        const uint8_t *from = x + *--minus;
        TERN_TAP(TERN_MINUS)
    }
    TERN_EACH(TERN_SPLIT)
#undef TERN_ZERO
#undef TERN_SPLIT
}
#undef TERN_TAKE
#undef TERN_PLUS
#undef TERN_MINUS
#undef TERN_TAP
#endif
