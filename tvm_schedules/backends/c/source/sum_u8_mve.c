#if defined(TERN_MVE)
/* Sums of 8, 16 or 32 pixels, as many as hold count: what is subtracted is added up first and changes its sign. */
static inline void tern_sum_u8(const uint8_t *x, const tern_offset *plus, int32_t plus_count, const tern_offset *minus,
                               int32_t minus_count, int32_t count, int16_t *sum)
{
#define TERN_ONE(apply) apply(0)
#define TERN_TWO(apply) apply(0) apply(1)
#define TERN_FOUR(apply) apply(0) apply(1) apply(2) apply(3)
#define TERN_ZERO(i) uint16x8_t sum##i = vdupq_n_u16(0);
#define TERN_ADD(i) sum##i = vaddq_u16(sum##i, vldrbq_u16(from + 8 * i));
#define TERN_NEGATE(i) sum##i = vsubq_u16(vdupq_n_u16(0), sum##i);
#define TERN_STORE(i) vstrhq_u16((uint16_t *)sum + 8 * i, sum##i);
#define TERN_SUM(each) { \
        each(TERN_ZERO) \
        for (; minus_count > 0; minus_count--) { const uint8_t *from = x + *--minus; each(TERN_ADD) } \
        each(TERN_NEGATE) \
        for (; plus_count > 0; plus_count--) { const uint8_t *from = x + *plus++; each(TERN_ADD) } \
        each(TERN_STORE) \
    }
    if (count > 16) TERN_SUM(TERN_FOUR)
    else if (count > 8) TERN_SUM(TERN_TWO)
    else TERN_SUM(TERN_ONE)
#undef TERN_ONE
#undef TERN_TWO
#undef TERN_FOUR
#undef TERN_ZERO
#undef TERN_ADD
#undef TERN_NEGATE
#undef TERN_STORE
#undef TERN_SUM
}
#endif
