static void tern_linear_@X@_@W@(const struct tern_linear *l, const @XTYPE@ *x, const void *residual, void *out, void *scratch)
{
    const uint8_t *code = l->codes.data;
    int32_t o, m, k, t;
    for (o = 0; o < l->outputs; o++) {
        const @WTYPE@ *weight = l->weight ? (const @WTYPE@ *)l->weight + o * l->inputs : NULL;
        if (TERN_LINEAR_CODES && !l->weight) {
            @WTYPE@ *row = scratch;
            weight = row;
            for (k = 0; k < l->inputs; k++) row[k] = 0;
            for (t = 0; t < l->terms; t++) {
                const float *level = l->level ? l->level + 2 * (o * l->terms + t) : NULL;
                code = tern_row_@W@(&l->codes, code, level ? (@WTYPE@)level[0] : 1, level ? (@WTYPE@)level[1] : 1, row);
            }
        }
        for (m = 0; m < l->rows; m++) {
            const @XTYPE@ *from = x + m * l->inputs;
            const int32_t at = m * l->outputs + o;
            @SUM@ sum = 0;
            float y;
            for (k = 0; k < l->inputs; k++) {
                const @SUM@ w = weight[k];
                sum = @MAC:from[k]@;
            }
            y = tern_fma((float)sum, l->scale[o], l->bias[o]);
            if (residual) {
                y = tern_fma(l->residual_float ? ((const float *)residual)[at] : (float)((const uint8_t *)residual)[at],
                             l->factor, y);
            }
            y = tern_clip(y, l->low, l->high);
            if (l->output_float) ((float *)out)[at] = y;
            else ((uint8_t *)out)[at] = (uint8_t)tern_round(y);
        }
    }
}
