/* Bytes times ternary weights. A layer's table has one of two forms: lists of places, or two bits for every weight. */
#define TERN_PLACES 256 /* of a list, so that each is a byte */

#if TERN_LISTS
/* Adds up what a list leads to: its length, and the places. */
TERN_INLINE const uint8_t *tern_sum_list(const uint8_t *code, const uint8_t *x, int32_t *sum)
{
    uint32_t total = 0;
#if defined(TERN_DSP) && !defined(TERN_MVE)
    uint32_t count, a, b, one = 1; /* a product of a * 1 + total + b adds two numbers at once */
#define TERN_TWO "ldrb %[a], [%[code]], #1\n\tldrb %[b], [%[code]], #1\n\tldrb %[a], [%[x], %[a]]\n\t" \
    "ldrb %[b], [%[x], %[b]]\n\tumaal %[total], %[a], %[b], %[one]\n\t"
    __asm__("ldrb %[count], [%[code]], #1\n\t"
            "lsls %[a], %[count], #31\n\titt mi\n\tldrbmi %[total], [%[code]], #1\n\tldrbmi %[total], [%[x], %[total]]\n\t"
            "bcc 1f\n\t" TERN_TWO
            "1: lsls %[a], %[count], #29\n\tbpl 2f\n\t" TERN_TWO TERN_TWO
            "2: lsrs %[count], %[count], #3\n\tbeq 4f\n\t"
            "3:" TERN_TWO TERN_TWO TERN_TWO TERN_TWO "subs %[count], #1\n\tbne 3b\n\t"
            "4:"
            : [code] "+r"(code), [total] "+r"(total), [count] "=&r"(count), [a] "=&r"(a), [b] "=&r"(b)
            : [x] "r"(x), [one] "r"(one) : "cc", "memory");
#undef TERN_TWO
#else
    int32_t count = *code++;
#if defined(TERN_MVE)
    for (; count > 0; count -= 16, code += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)count);
        total = vaddvaq_u8(total, vldrbq_gather_offset_z_u8(x, vldrbq_u8(code), some));
    }
    code += count;
#else
    for (; count >= 4; count -= 4, code += 4) total += (uint32_t)x[code[0]] + x[code[1]] + x[code[2]] + x[code[3]];
    for (; count > 0; count--) {
        total += x[*code++];
        TERN_KEEP_LOOP(count);
    }
#endif
#endif
    *sum = (int32_t)total;
    return code;
}

TERN_INLINE const uint8_t *tern_sum_lists(const uint8_t *code, const uint8_t *x, int32_t inputs, int32_t *sum)
{
    int32_t total = 0, k, plus, minus;
    for (k = 0; k < inputs; k += TERN_PLACES) {
        code = tern_sum_list(code, x + k, &plus);
        code = tern_sum_list(code, x + k, &minus);
        total += plus - minus;
    }
    *sum = total;
    return code;
}
#endif

#if TERN_EACH_WEIGHT
#if defined(TERN_MVE)
#define TERN_ROWS 1
#define TERN_GROUP 64 /* inputs that are read together: byte j holds the weights of j, j + 16, j + 32, j + 48 */

/* Adds up the products of x and a row's weights, which are 0, 1, 2 here, in whole groups. */
TERN_INLINE const uint8_t *tern_sum_groups(const uint8_t *code, const uint8_t *x, int32_t groups, int32_t *sum)
{
    const uint8x16_t m0 = vdupq_n_u8(3), m1 = vdupq_n_u8(12), m2 = vdupq_n_u8(48), m3 = vdupq_n_u8(192);
    uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0; /* of 1, 4, 16 and 64 times the weights */
    for (; groups > 0; groups--, code += 16, x += 64) {
        const uint8x16_t all = vldrbq_u8(code);
        s0 = vmladavaq_u8(s0, vandq_u8(all, m0), vldrbq_u8(x));
        s1 = vmladavaq_u8(s1, vandq_u8(all, m1), vldrbq_u8(x + 16));
        s2 = vmladavaq_u8(s2, vandq_u8(all, m2), vldrbq_u8(x + 32));
        s3 = vmladavaq_u8(s3, vandq_u8(all, m3), vldrbq_u8(x + 48));
    }
    *sum += (int32_t)(s0 + (s1 >> 2) + (s2 >> 4) + (s3 >> 6));
    return code;
}
#else
#define TERN_ROWS 4
#define TERN_GROUP 8 /* inputs; two words hold their weights for four rows, the first one those of rows 0 and 1 */
#if defined(TERN_DSP)
#define TERN_SPLIT 14 /* input 4 j + b is at bit 16 (b / 2) + 8 j + 4 (b & 1), of the other row 14 bits further around */
#define TERN_WORDS_AT_ONCE 4
#else
#define TERN_SPLIT 16 /* input i is at bit 2 i, of the other row 16 bits further */
#define TERN_WORDS_AT_ONCE 16
#endif

/* Adds up the products of x and the weights of four rows, in whole groups. A weight is 0, 1, 2 for -1, 0, 1; with DSPs
   that of an odd row is itself, signed. A product has both rows, and so many groups at once that one row's sum stays
   below the bits of the other's. */
TERN_KERNEL const uint8_t *tern_sum_groups(const uint8_t *code, const uint8_t *x, int32_t groups, int32_t *sum)
{
    const uint32_t *word = (const uint32_t *)(const void *)code;
    const uint32_t low = ((uint32_t)1 << TERN_SPLIT) - 1;
    while (groups > 0) {
        int32_t some = groups < TERN_WORDS_AT_ONCE ? groups : TERN_WORDS_AT_ONCE;
#if defined(TERN_DSP)
        int32_t both0 = 0, both1 = 0;
#define TERN_PRODUCTS(lanes, turn) { \
            const uint32_t two = lanes; \
            both0 = tern_two_products(0xc003c003u & (w0 >> turn | w0 << (-turn & 31)), two, both0); \
            both1 = tern_two_products(0xc003c003u & (w1 >> turn | w1 << (-turn & 31)), two, both1); \
        }
#else
        uint32_t both0 = 0, both1 = 0;
#define TERN_PRODUCTS(i) { \
            const uint32_t one = x[i]; \
            both0 += (w0 >> 2 * i & 0x00030003u) * one; \
            both1 += (w1 >> 2 * i & 0x00030003u) * one; \
        }
#endif
        groups -= some;
        for (; some > 0; some--, word += 2, x += TERN_GROUP) {
            const uint32_t w0 = word[0], w1 = word[1];
#if defined(TERN_DSP)
            const uint32_t first = tern_word_at(x), second = tern_word_at(x + 4);
            TERN_PRODUCTS(tern_even(first), 0)
            TERN_PRODUCTS(tern_odd(first), 4)
            TERN_PRODUCTS(tern_even(second), 8)
            TERN_PRODUCTS(tern_odd(second), 12)
#else
            TERN_PRODUCTS(0) TERN_PRODUCTS(1) TERN_PRODUCTS(2) TERN_PRODUCTS(3)
            TERN_PRODUCTS(4) TERN_PRODUCTS(5) TERN_PRODUCTS(6) TERN_PRODUCTS(7)
#endif
        }
#undef TERN_PRODUCTS
        sum[0] += (int32_t)((uint32_t)both0 & low), sum[1] += (int32_t)(both0 >> TERN_SPLIT);
        sum[2] += (int32_t)((uint32_t)both1 & low), sum[3] += (int32_t)(both1 >> TERN_SPLIT);
    }
    return (const uint8_t *)word;
}
#endif
#endif

/* Bytes times ternary weights, added up while the table is read. */
TERN_KERNEL void tern_linear_codes(const struct tern_linear *l, const uint8_t *x, const void *residual, void *out)
{
    int32_t m, o, i;
    for (m = 0; m < l->rows; m++, x += l->inputs) {
        const uint8_t *code = l->weight;
#if TERN_EACH_WEIGHT
        const int32_t groups = l->inputs / TERN_GROUP, rest = l->inputs % TERN_GROUP;
        uint8_t last[TERN_GROUP] = {0};
        int32_t all = 0;
        for (i = 0; i < l->inputs; i++) all += x[i];
        for (i = 0; i < rest; i++) last[i] = x[groups * TERN_GROUP + i];
#endif
        for (o = 0; o < l->outputs; o += TERN_BLOCK) {
            const int32_t count = l->outputs - o < TERN_BLOCK ? l->outputs - o : TERN_BLOCK;
            int32_t sum[TERN_BLOCK];
            i = 0;
#if TERN_LISTS
            if (!TERN_EACH_WEIGHT || l->lists) for (; i < count; i++) code = tern_sum_lists(code, x, l->inputs, &sum[i]);
#endif
#if TERN_EACH_WEIGHT
            for (; i < count; i += TERN_ROWS) {
                sum[i] = -all;
#if !defined(TERN_MVE)
                sum[i + 1] = sum[i + 3] = TERN_SPLIT == 16 ? -all : 0, sum[i + 2] = -all;
#endif
                code = tern_sum_groups(code, x, groups, &sum[i]);
                if (rest) code = tern_sum_groups(code, last, 1, &sum[i]);
            }
#endif
            tern_linear_put_sums(l, m, o, count, sum, residual, out);
        }
    }
}
