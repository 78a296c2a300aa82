static void tern_repack_@X@_@Y@(const struct tern_repack *l, const @XTYPE@ *x, @YTYPE@ *out)
{
    int32_t n, c, i, j, k, d, h, w;
    for (w = 0; w < l->to_elements; w++) out[w] = (@YTYPE@)l->fill;
    for (n = 0; n < l->images; n++)
    for (c = 0; c < l->channels; c++)
    for (i = 0; i < l->steps[0]; i++)
    for (j = 0; j < l->steps[1]; j++)
    for (k = 0; k < l->steps[2]; k++) {
        const int32_t plane = (i * l->steps[1] + j) * l->steps[2] + k, step = l->from[4] * l->steps[2];
        for (d = 0; d * l->steps[0] + i < l->depth; d++)
        for (h = 0; h * l->steps[1] + j < l->height; h++) {
            const @XTYPE@ *from = x + l->from_origin + n * l->from[0] + c * l->from[1] + k * l->from[4]
                + (d * l->steps[0] + i) * l->from[2] + (h * l->steps[1] + j) * l->from[3];
            @YTYPE@ *to = out + l->to_origin + n * l->to[0] + c * l->to[1] + plane * l->to_plane
                + d * l->to[2] + h * l->to[3];
            for (w = 0; w * l->steps[2] + k < l->width; w++) to[w * l->to[4]] = @CONVERT:from[w * step]@;
        }
    }
}
