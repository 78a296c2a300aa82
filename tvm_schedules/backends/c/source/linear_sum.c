TERN_KERNEL void tern_linear_@X@_@W@(const struct tern_linear *l, const @XTYPE@ *x, const void *residual, void *out, void *scratch)
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
            float sum = 0;
            for (k = 0; k < l->inputs; k++) sum = tern_fma((float)from[k], (float)weight[k], sum);
            tern_linear_put(l, m, o, 1, &sum, residual, out);
        }
    }
}
