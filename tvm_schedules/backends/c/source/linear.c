/* A linear layer over rows of plain numbers; the weight [outputs][inputs] is dense or ternary. */
struct tern_linear {
    const void *weight;      /* dense, or a table of its own form; NULL: codes */
    struct tern_codes codes; /* one tap, inputs are the channels */
    const float *level;      /* [outputs][terms][2]; NULL: the scale holds the only one */
    const float *scale, *bias;
    float factor, low, high; /* of the residual, as in tern_finish */
    int32_t terms, rows, inputs, outputs;
    uint8_t residual_float, output_float;
    uint8_t lists, fours; /* which form the weight has: of linear_codes.c, of linear_dots.c */
    const int32_t *fixed; /* as in tern_finish; NULL: floats */
    int32_t fixed_shift, fixed_bits, fixed_near, fixed_low, fixed_high;
};

/* Writes count outputs of row m, from o on, from their sums. */
static void tern_linear_put(const struct tern_linear *l, int32_t m, int32_t o, int32_t count, const float *sum,
                            const void *residual, void *out)
{
    const float *const scale = l->scale + o, *const bias = l->bias + o, factor = l->factor, low = l->low, high = l->high;
    const int32_t at = m * l->outputs + o;
    int32_t i;
    for (i = 0; i < count; i++) {
        float y = tern_fma(sum[i], scale[i], bias[i]);
        if (residual && l->residual_float) y = tern_fma(((const float *)residual)[at + i], factor, y);
        else if (residual) y = tern_fma((float)((const uint8_t *)residual)[at + i], factor, y);
        y = tern_clip(y, low, high);
        if (l->output_float) ((float *)out)[at + i] = y;
        else ((uint8_t *)out)[at + i] = (uint8_t)tern_round(y);
    }
}
