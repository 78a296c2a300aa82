#if defined(TERN_DSP)
TERN_INLINE uint32_t tern_word_at(const void *x)
{
    uint32_t word;
    tern_copy_bytes(&word, x, sizeof word);
    return word;
}

/* Bytes 0 and 2, or 1 and 3, of a word in lanes of 16 bits. */
TERN_INLINE uint32_t tern_even(uint32_t word)
{
    __asm__("uxtb16 %0, %1" : "=r"(word) : "r"(word));
    return word;
}

TERN_INLINE uint32_t tern_odd(uint32_t word)
{
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(word) : "r"(word));
    return word;
}

struct tern_unaligned {
    uint32_t word;
} __attribute__((packed, may_alias));

/* Adds the products of four signed bytes with such lanes to sum; one piece, so that few registers are taken at a time. */
TERN_INLINE int32_t tern_dot(const int8_t *bytes, uint32_t even, uint32_t odd, int32_t sum)
{
    uint32_t low, high;
    __asm__("ldr %1, %3\n\tsxtb16 %2, %1, ror #8\n\tsxtb16 %1, %1\n\tsmlad %0, %1, %4, %0\n\tsmlad %0, %2, %5, %0"
            : "+r"(sum), "=&r"(low), "=&r"(high)
            : "m"(*(const struct tern_unaligned *)bytes), "r"(even), "r"(odd));
    return sum;
}

/* Adds the products of four bytes with the lower half of weight to four sums. */
TERN_INLINE void tern_mac_word(const uint8_t *x, int32_t weight, int32_t *s0, int32_t *s1, int32_t *s2, int32_t *s3)
{
    const uint32_t word = tern_word_at(x);
    uint32_t lanes = tern_even(word);
    __asm__("smlabb %0, %1, %2, %0" : "+r"(*s0) : "r"(lanes), "r"(weight));
    __asm__("smlatb %0, %1, %2, %0" : "+r"(*s2) : "r"(lanes), "r"(weight));
    lanes = tern_odd(word);
    __asm__("smlabb %0, %1, %2, %0" : "+r"(*s1) : "r"(lanes), "r"(weight));
    __asm__("smlatb %0, %1, %2, %0" : "+r"(*s3) : "r"(lanes), "r"(weight));
}

/* A pointer further by a byte of a word. */
#define TERN_FORWARD(byte, rotated) \
    TERN_INLINE const uint8_t *tern_forward_##byte(const uint8_t *x, uint32_t word) \
    { \
        __asm__("uxtab %0, %0, %1" rotated : "+r"(x) : "r"(word)); \
        return x; \
    }
TERN_FORWARD(0, "") TERN_FORWARD(1, ", ror #8") TERN_FORWARD(2, ", ror #16") TERN_FORWARD(3, ", ror #24")
#endif
