#if defined(TERN_MVE)
/* Adds up what the gaps of one sign lead to; x lies one before the row. Eight gaps are added up to eight places, and what
   lies there is gathered; a zero among them ends the list, or is followed by a number that only goes on. */
static inline const uint8_t *tern_sum_gaps(const uint8_t *code, const uint8_t *x, int32_t *sum)
{
    uint32_t total = 0;
    for (;;) {
        uint16x8_t places = vldrbq_u16(code), half;
        const uint32_t zeros = vcmpeqq_n_u16(places, 0); /* two bits a lane */
        uint32_t carry = 0;
        places = vaddq_u16(places, vshlcq_u16(places, &carry, 16));
        carry = 0;
        places = vaddq_u16(places, vshlcq_u16(places, &carry, 32));
        carry = 0;
        half = vshlcq_u16(places, &carry, 32);
        carry = 0;
        places = vaddq_u16(places, vshlcq_u16(half, &carry, 32));
        if (!zeros) {
            total = vaddvaq_u16(total, vldrbq_gather_offset_u16(x, places));
            x += vgetq_lane_u16(places, 7);
            code += 8;
        } else {
            const uint32_t lanes = (uint32_t)__builtin_ctz(zeros) / 2;
            total = vaddvaq_u16(total, vldrbq_gather_offset_z_u16(x, places, vctp16q(lanes)));
            if (!code[lanes + 1]) {
                *sum = (int32_t)total;
                return code + lanes + 2;
            }
            for (; *code; code++) x += *code;
            x += code[1];
            code += 2;
        }
    }
}
#else
/* Adds up what the gaps of one sign lead to; x lies one before the row. */
static inline const uint8_t *tern_sum_gaps(const uint8_t *code, const uint8_t *x, int32_t *sum)
{
    int32_t total = 0, gap;
    for (;;) {
#if defined(TERN_DSP)
        uint32_t word = tern_word_at(code); /* four gaps at a time while none of them is zero */
        for (; ((word - 0x01010101u) & ~word & 0x80808080u) == 0; word = tern_word_at(code += 4)) {
            total += *(x = tern_forward_0(x, word));
            total += *(x = tern_forward_1(x, word));
            total += *(x = tern_forward_2(x, word));
            total += *(x = tern_forward_3(x, word));
        }
#endif
        for (; (gap = *code++) != 0; total += *x) x += gap;
        if ((gap = *code++) == 0) break;
        x += gap;
    }
    *sum = total;
    return code;
}

#endif

/* Adds up the products of x and trits, which are 0, 1, 2 here; all is the sum of x. */
static inline const uint8_t *tern_sum_trits(const uint8_t *code, const uint8_t *x, int32_t count, int32_t all, int32_t *sum)
{
#if defined(__thumb__) && !defined(__thumb2__)
#define TERN_TRIT rest = (rest & 255) * 3; total += (int32_t)(rest >> 8) * *x++;
    uint32_t rest; /* no product of 64 bits */
#else
#define TERN_TRIT rest = (uint64_t)(uint32_t)rest * 3; total += (int32_t)(rest >> 32) * *x++;
    uint64_t rest;
#endif
    int32_t total = -all, i;
    for (; count >= 5; count -= 5) {
        rest = (uint32_t)*code++ << (sizeof rest == 8 ? 24 : 0);
        TERN_TRIT TERN_TRIT TERN_TRIT TERN_TRIT TERN_TRIT
    }
    if (count) {
        rest = (uint32_t)*code++ << (sizeof rest == 8 ? 24 : 0);
        for (i = 0; i < count; i++) { TERN_TRIT }
    }
#undef TERN_TRIT
    *sum = total;
    return code;
}

/* Bytes times ternary weights, added up while the codes are read. */
TERN_KERNEL void tern_linear_codes(const struct tern_linear *l, const uint8_t *x, const void *residual, void *out)
{
    int32_t m, o, i, k;
    for (m = 0; m < l->rows; m++, x += l->inputs) {
        const uint8_t *code = l->codes.data;
        int32_t all = 0, sum = 0, minus;
        if (TERN_TRITS && (!TERN_GAPS || !l->codes.gaps)) for (k = 0; k < l->inputs; k++) all += x[k];
        for (o = 0; o < l->outputs; o += TERN_BLOCK) {
            const int32_t count = l->outputs - o < TERN_BLOCK ? l->outputs - o : TERN_BLOCK;
            float y[TERN_BLOCK];
            for (i = 0; i < count; i++) {
                if (TERN_GAPS && (!TERN_TRITS || l->codes.gaps)) {
                    code = tern_sum_gaps(code, x - 1, &sum);
                    code = tern_sum_gaps(code, x - 1, &minus);
                    sum -= minus;
                } else if (TERN_TRITS) code = tern_sum_trits(code, x, l->inputs, all, &sum);
                y[i] = (float)sum;
            }
            tern_linear_put(l, m, o, count, y, residual, out);
        }
    }
}
