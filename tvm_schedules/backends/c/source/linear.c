/* A linear layer over rows of plain numbers; the weight [outputs][inputs] is dense or ternary. */
struct tern_linear {
    const void *weight;      /* dense; NULL: ternary */
    struct tern_codes codes; /* one tap, inputs are the channels */
    const float *level;      /* [outputs][terms][2]; NULL: the scale holds the only one */
    const float *scale, *bias;
    float factor, low, high; /* of the residual, as in tern_finish */
    int32_t terms, rows, inputs, outputs;
    uint8_t residual_float, output_float;
};
