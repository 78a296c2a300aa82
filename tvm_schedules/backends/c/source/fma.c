#if defined(TERN_FIXED) && !defined(tern_fma)
/* A number shifted to the right; its last bit also stands for all that is lost. */
static inline uint64_t tern_jam(uint64_t number, int32_t shift)
{
    return shift > 62 ? number != 0 : number >> shift | ((number & (((uint64_t)1 << shift) - 1)) != 0);
}

/* a * b + c, rounded once, in whole numbers: where there is no floating point, several times faster than with doubles. */
TERN_KERNEL float tern_fma(float a, float b, float c)
{
    uint32_t x, y, z, bits;
    int32_t ex, ey, ez, exponent, beside, zeros = 0;
    uint64_t product, addend, sum, rest;
    float result;
    tern_copy_bytes(&x, &a, sizeof x);
    tern_copy_bytes(&y, &b, sizeof y);
    tern_copy_bytes(&z, &c, sizeof z);
    ex = x >> 23 & 255, ey = y >> 23 & 255, ez = z >> 23 & 255;
    if (!ex || !ey || !ez || ex == 255 || ey == 255 || ez == 255) return tern_fma_double(a, b, c);
    product = (uint64_t)((x & 0x7fffff) | 0x800000) * ((y & 0x7fffff) | 0x800000); /* 47 or 48 bits */
    addend = (z & 0x7fffff) | 0x800000;
    exponent = ex + ey - 300; /* of the last bit of the product */
    beside = ez - 150 - exponent;
    if (beside > 38) { /* the addend is far larger: no bit that the product loses can come to matter but as a rest */
        addend <<= 38;
        product = tern_jam(product, beside - 38);
        exponent += beside - 38;
    } else if (beside >= 0) addend <<= beside;
    else {
        product <<= 14;
        exponent -= 14;
        if (beside >= -14) addend <<= beside + 14;
        else addend = tern_jam(addend, -14 - beside);
    }
    bits = (x ^ y) & 0x80000000u;
    if (bits == (z & 0x80000000u)) sum = product + addend;
    else if (product > addend) sum = product - addend;
    else {
        sum = addend - product;
        bits ^= 0x80000000u;
        if (!sum) return 0;
    }
    while (!(sum >> 48)) sum <<= 16, zeros += 16;
    while (!(sum >> 60)) sum <<= 4, zeros += 4;
    while (!(sum >> 63)) sum <<= 1, zeros++;
    exponent += 40 - zeros + 150;
    if (exponent < 1 || exponent > 253) return tern_fma_double(a, b, c);
    rest = sum & (((uint64_t)1 << 40) - 1);
    x = (uint32_t)(sum >> 40); /* 24 bits, of which the first one is not stored; a carry beyond them is right as well */
    x += rest > (uint64_t)1 << 39 || (rest == (uint64_t)1 << 39 && (x & 1));
    bits |= ((uint32_t)exponent << 23) + x - 0x800000;
    tern_copy_bytes(&result, &bits, sizeof result);
    return result;
}
#endif
