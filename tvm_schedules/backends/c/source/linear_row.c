/* Reads a row's code and adds its levels to weight; returns the next row's code. */
static const uint8_t *tern_row_@W@(const struct tern_codes *l, const uint8_t *code, @WTYPE@ plus, @WTYPE@ minus,
                                 @WTYPE@ *weight)
{
    if (TERN_GAPS && (!TERN_TRITS || l->gaps)) {
        int sign;
        for (sign = 1; sign >= 0; sign--, code += 2) {
            int32_t at = -1;
            for (; code[0] || code[1]; code++) {
                if (*code) {
                    at += *code;
                    weight[at] = (@WTYPE@)(weight[at] + (sign ? plus : -minus));
                } else at += *++code;
            }
        }
    } else if (TERN_TRITS) {
        uint32_t rest = 0;
        int32_t i;
        for (i = 0; i < l->channels; i++) {
            if (i % 5 == 0) rest = *code++;
            rest *= 3;
            if (rest >> 8 == 2) weight[i] = (@WTYPE@)(weight[i] + plus);
            else if (rest >> 8 == 0) weight[i] = (@WTYPE@)(weight[i] - minus);
            rest &= 255;
        }
    }
    return code;
}
