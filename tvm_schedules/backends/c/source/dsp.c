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

/* Adds the products of two lanes to sum. */
TERN_INLINE int32_t tern_two_products(uint32_t a, uint32_t b, int32_t sum)
{
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
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
#endif
