#if defined(TERN_DSP) && !defined(TERN_MVE)
/* Adds the bytes of a word to two 16-bit lanes each: 0 and 2 to even, 1 and 3 to odd. */
static inline void tern_add_bytes(uint32_t word, uint32_t *even, uint32_t *odd)
{
    __asm__("uxtab16 %0, %0, %1" : "+r"(*even) : "r"(word));
    __asm__("uxtab16 %0, %0, %1, ror #8" : "+r"(*odd) : "r"(word));
}

static inline uint32_t tern_negative(uint32_t lanes)
{
    __asm__("usub16 %0, %1, %0" : "+r"(lanes) : "r"(0) : "cc");
    return lanes;
}

static inline void tern_store_lanes(uint32_t even, uint32_t odd, int16_t *sum)
{
    uint32_t pairs[2];
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pairs[0]) : "r"(even), "r"(odd));
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pairs[1]) : "r"(odd), "r"(even));
    tern_copy_bytes(sum, pairs, sizeof pairs);
}

/* Sums of 8, 12 or 16 pixels, as many as hold count: what is subtracted is added up first and changes its sign. */
static inline void tern_sum_u8(const uint8_t *x, const tern_offset *plus, int32_t plus_count, const tern_offset *minus,
                               int32_t minus_count, int32_t count, int16_t *sum)
{
#define TERN_TWO(apply) apply(0) apply(1)
#define TERN_THREE(apply) apply(0) apply(1) apply(2)
#define TERN_FOUR(apply) apply(0) apply(1) apply(2) apply(3)
#define TERN_ZERO(i) uint32_t even##i = 0, odd##i = 0;
#define TERN_ADD(i) tern_add_bytes(tern_word_at(from + 4 * i), &even##i, &odd##i);
#define TERN_NEGATE(i) even##i = tern_negative(even##i), odd##i = tern_negative(odd##i);
#define TERN_STORE(i) tern_store_lanes(even##i, odd##i, sum + 4 * i);
#define TERN_TAP(each, offset) { const uint8_t *from = x + (offset); each(TERN_ADD) }
#define TERN_SUM(each) { \
        each(TERN_ZERO) \
        if (minus_count & 1) TERN_TAP(each, *--minus) \
        for (; minus != low; minus -= 2) { TERN_TAP(each, minus[-1]) TERN_TAP(each, minus[-2]) } \
        each(TERN_NEGATE) \
        if (plus_count & 1) TERN_TAP(each, *plus++) \
        for (; plus != end; plus += 2) { TERN_TAP(each, plus[0]) TERN_TAP(each, plus[1]) } \
        each(TERN_STORE) \
    }
    const tern_offset *const end = plus + plus_count, *const low = minus - minus_count;
    if (count > 12) TERN_SUM(TERN_FOUR)
    else if (count > 8) TERN_SUM(TERN_THREE)
    else TERN_SUM(TERN_TWO)
#undef TERN_TWO
#undef TERN_THREE
#undef TERN_FOUR
#undef TERN_ZERO
#undef TERN_ADD
#undef TERN_NEGATE
#undef TERN_STORE
#undef TERN_TAP
#undef TERN_SUM
}
#endif
