/* A convolution whose neighboring rows are sums and differences of lists that they share. */
struct tern_ternary_groups {
    struct tern_ternary layer; /* its codes: the lists of every group */
    const int8_t *mix;         /* [lists][together]: how often a list counts in a row, -1, 0 or 1; the first once in all */
    int32_t lists, together;   /* of a group: lists, rows */
};

/* Adds sums of a list to those of a row, or takes them off. */
TERN_INLINE void tern_mix_i16(int16_t *to, const int16_t *from, int32_t sign, int32_t count)
{
    int32_t i;
#if defined(TERN_MVE)
    if (sign > 0) for (i = 0; i < count; i += 8) vst1q_s16(to + i, vaddq_s16(vld1q_s16(to + i), vld1q_s16(from + i)));
    else for (i = 0; i < count; i += 8) vst1q_s16(to + i, vsubq_s16(vld1q_s16(to + i), vld1q_s16(from + i)));
#elif defined(TERN_DSP)
#define TERN_MIX(op) for (i = 0; i < count; i += 4) { \
        uint32_t a[2], b[2]; \
        tern_copy_bytes(a, to + i, sizeof a); \
        tern_copy_bytes(b, from + i, sizeof b); \
        __asm__(op " %0, %0, %1" : "+r"(a[0]) : "r"(b[0]) : "cc"); \
        __asm__(op " %0, %0, %1" : "+r"(a[1]) : "r"(b[1]) : "cc"); \
        tern_copy_bytes(to + i, a, sizeof a); \
    }
    if (sign > 0) TERN_MIX("uadd16")
    else TERN_MIX("usub16")
#undef TERN_MIX
#else
    if (sign > 0) for (i = 0; i < count; i++) to[i] = (int16_t)(uint16_t)((uint32_t)to[i] + (uint32_t)from[i]);
    else for (i = 0; i < count; i++) to[i] = (int16_t)(uint16_t)((uint32_t)to[i] - (uint32_t)from[i]);
#endif
}

TERN_INLINE void tern_mix_i32(int32_t *to, const int32_t *from, int32_t sign, int32_t count)
{
    int32_t i;
    if (sign > 0) for (i = 0; i < count; i++) to[i] += from[i];
    else for (i = 0; i < count; i++) to[i] -= from[i];
}
