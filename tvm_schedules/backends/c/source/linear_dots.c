#if defined(TERN_DSP) && !defined(TERN_MVE)
/* Four rows of weights stand together: for four inputs four words, of rows 0 and 1, then of rows 2 and 3, first with
   inputs 0 and 2, then with 1 and 3. A half is 256 times the weight of the even row and that of the odd one, so that
   both are summed by one product; what the odd one has summed too is taken away. Up to 256 inputs no bit is lost. */
static const uint32_t *tern_dots(const uint8_t *x, const uint32_t *weight, int32_t count, int32_t *sum)
{
    while (count > 0) {
        const int32_t some = count < 256 ? count : 256;
        const uint8_t *const end = x + some;
        int32_t both0 = 0, odd0 = 0, both1 = 0, odd1 = 0;
        register uint32_t w0 __asm__("r4"), w1 __asm__("r5"), w2 __asm__("r6"), w3 __asm__("r8");
        uint32_t even, odd;
        do {
            __asm__("ldr %[even], [%[x]], #4\n\tldmia %[w]!, {r4, r5, r6, r8}\n\t"
                    "uxtb16 %[odd], %[even], ror #8\n\tuxtb16 %[even], %[even]\n\t"
                    "smlad %[b0], %[w0], %[even], %[b0]\n\tsxtb16 %[w0], %[w0]\n\tsmlad %[o0], %[w0], %[even], %[o0]\n\t"
                    "smlad %[b1], %[w1], %[even], %[b1]\n\tsxtb16 %[w1], %[w1]\n\tsmlad %[o1], %[w1], %[even], %[o1]\n\t"
                    "smlad %[b0], %[w2], %[odd], %[b0]\n\tsxtb16 %[w2], %[w2]\n\tsmlad %[o0], %[w2], %[odd], %[o0]\n\t"
                    "smlad %[b1], %[w3], %[odd], %[b1]\n\tsxtb16 %[w3], %[w3]\n\tsmlad %[o1], %[w3], %[odd], %[o1]"
                    : [x] "+r"(x), [w] "+r"(weight), [b0] "+r"(both0), [o0] "+r"(odd0), [b1] "+r"(both1), [o1] "+r"(odd1),
                      [even] "=&r"(even), [odd] "=&r"(odd), [w0] "=&r"(w0), [w1] "=&r"(w1), [w2] "=&r"(w2), [w3] "=&r"(w3)
                    : : "memory");
        } while (x != end);
        sum[0] += (both0 - odd0) >> 8, sum[1] += odd0, sum[2] += (both1 - odd1) >> 8, sum[3] += odd1;
        count -= some;
    }
    return weight;
}
#elif defined(TERN_MVE)
/* Sums of products of bytes with four rows of weights, count behind each other: of x - 128, which is signed, and 128
   times the weights. */
static inline void tern_dots(const uint8_t *x, const int8_t *weight, int32_t count, int32_t *sum)
{
    const int8_t *w1 = weight + count, *w2 = w1 + count, *w3 = w2 + count;
    const uint8x16_t half = vdupq_n_u8(128);
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, all0 = 0, all1 = 0, all2 = 0, all3 = 0, groups;
    int8x16_t lanes, w;
#define TERN_ROW(load, row, total, all) w = load(row), total = vmladavaq_s8(total, lanes, w), all = vaddvaq_s8(all, w);
#define TERN_FOUR_ROWS(load) TERN_ROW(load, weight, s0, all0) TERN_ROW(load, w1, s1, all1) TERN_ROW(load, w2, s2, all2) \
    TERN_ROW(load, w3, s3, all3)
#define TERN_SOME(row) vldrbq_z_s8(row, some)
    for (groups = count >> 4; groups > 0; groups--) {
        lanes = vreinterpretq_s8_u8(veorq_u8(vldrbq_u8(x), half));
        TERN_FOUR_ROWS(vldrbq_s8)
        x += 16, weight += 16, w1 += 16, w2 += 16, w3 += 16;
    }
    if (count & 15) {
        const mve_pred16_t some = vctp8q((uint32_t)count & 15);
        lanes = vreinterpretq_s8_u8(veorq_u8(vldrbq_z_u8(x, some), half));
        TERN_FOUR_ROWS(TERN_SOME)
    }
    sum[0] = s0 + 128 * all0, sum[1] = s1 + 128 * all1, sum[2] = s2 + 128 * all2, sum[3] = s3 + 128 * all3;
#undef TERN_ROW
#undef TERN_FOUR_ROWS
#undef TERN_SOME
}
#elif defined(__GNUC__) && defined(__thumb__) && !defined(__thumb2__) && !defined(TERN_SCALAR)
/* Cortex-M0+: the sums are in the registers that only additions reach, all else in the eight others, 15 instructions for
   four products; the compiler keeps some of it in memory. Nothing may change how it is called. */
#if defined(__clang__)
#define TERN_NAKED static __attribute__((naked, noinline))
#else
#define TERN_NAKED static __attribute__((naked, noipa))
#endif
TERN_NAKED void tern_dots(const uint8_t *x __attribute__((unused)), const int8_t *weight __attribute__((unused)),
                          int32_t count __attribute__((unused)), int32_t *sum __attribute__((unused)))
{
    __asm__(".syntax unified\n\tpush {r3-r7, lr}\n\tmov r4, r8\n\tmov r5, r9\n\tmov r6, r10\n\tmov r7, r11\n\tpush {r4-r7}\n\t"
            "movs r3, #0\n\tmov r8, r3\n\tmov r9, r3\n\tmov r10, r3\n\tmov r11, r3\n\t"
            "adds r0, r0, r2\n\tadds r4, r1, r2\n\tadds r5, r4, r2\n\tadds r6, r5, r2\n\tadds r7, r6, r2\n\t"
            "rsbs r2, r2, #0\n\tbeq 2f\n"
            "1:\tldrb r1, [r0, r2]\n\t"
            "ldrsb r3, [r4, r2]\n\tmuls r3, r1, r3\n\tadd r8, r8, r3\n\t"
            "ldrsb r3, [r5, r2]\n\tmuls r3, r1, r3\n\tadd r9, r9, r3\n\t"
            "ldrsb r3, [r6, r2]\n\tmuls r3, r1, r3\n\tadd r10, r10, r3\n\t"
            "ldrsb r3, [r7, r2]\n\tmuls r3, r1, r3\n\tadd r11, r11, r3\n\t"
            "adds r2, r2, #1\n\tbne 1b\n"
            "2:\tldr r0, [sp, #16]\n\tmov r1, r8\n\tmov r2, r9\n\tmov r3, r10\n\tmov r4, r11\n\tstmia r0!, {r1-r4}\n\t"
            "pop {r4-r7}\n\tmov r8, r4\n\tmov r9, r5\n\tmov r10, r6\n\tmov r11, r7\n\tpop {r3-r7, pc}");
}
#else
/* Sums of products of bytes with four rows of weights, count behind each other. */
static inline void tern_dots(const uint8_t *x, const int8_t *weight, int32_t count, int32_t *sum)
{
    const int8_t *const w1 = weight + count, *const w2 = w1 + count, *const w3 = w2 + count;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, k;
    for (k = 0; k < count; k++) {
        const int32_t one = x[k];
        s0 += one * weight[k];
        s1 += one * w1[k];
        s2 += one * w2[k];
        s3 += one * w3[k];
    }
    sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3;
}
#endif

static int32_t tern_dot_row(const uint8_t *x, const int8_t *weight, int32_t count)
{
    int32_t sum = 0;
    for (; count > 0; count--) sum += *x++ * *weight++;
    return sum;
}

/* Bytes times dense weights of 8 bits, where more than one row can be summed at a time four outputs at once. */
TERN_KERNEL void tern_linear_dots(const struct tern_linear *l, const uint8_t *x, const void *residual, void *out)
{
    int32_t m, o, i, sum[TERN_BLOCK];
    for (m = 0; m < l->rows; m++, x += l->inputs) {
        const int8_t *weight = l->weight;
        for (o = 0; o < l->outputs; o += TERN_BLOCK) {
            const int32_t count = l->outputs - o < TERN_BLOCK ? l->outputs - o : TERN_BLOCK;
            i = 0;
#if !defined(TERN_DSP) || defined(TERN_MVE)
            for (; i + 4 <= count; i += 4, weight += 4 * l->inputs) tern_dots(x, weight, l->inputs, sum + i);
#else
            if (l->fours) for (; i + 4 <= count; i += 4) {
                const int32_t whole = l->inputs & ~3, rest = l->inputs & 3;
                const uint32_t *words = (const uint32_t *)(const void *)weight;
                sum[i] = sum[i + 1] = sum[i + 2] = sum[i + 3] = 0;
                words = tern_dots(x, words, whole, sum + i);
                if (rest) {
                    uint8_t last[4] = {0};
                    int32_t k;
                    for (k = 0; k < rest; k++) last[k] = x[whole + k];
                    words = tern_dots(last, words, 4, sum + i);
                }
                weight = (const int8_t *)words;
            }
#endif
            for (; i < count; i++, weight += l->inputs) sum[i] = tern_dot_row(x, weight, l->inputs);
            tern_linear_put_sums(l, m, o, count, sum, residual, out);
        }
    }
}
