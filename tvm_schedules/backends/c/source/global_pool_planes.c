TERN_KERNEL void tern_global_pool_@X@(const struct tern_global_pool *l, const @XTYPE@ *x, void *out)
{
    int32_t index, d, h, w;
    for (index = 0; index < l->planes; index++) {
        @SUM@ part[16] = {0}, sum = 0; /* partial sums by place in the plane: floats add up as on other targets */
        float y;
        if (l->run) {
            const @XTYPE@ *from = x + index * l->plane + l->origin;
            for (d = 0; d + 16 <= l->run; d += 16, from += 16) for (w = 0; w < 16; w++) part[w] += from[w];
            for (w = 0; d + w < l->run; w++) part[w] += from[w];
            sum = -(@SUM@)l->between;
        } else for (d = 0; d < l->depth; d++) {
            for (h = 0; h < l->height; h++) {
                const int32_t row = d * l->slice + h * l->row;
                const @XTYPE@ *from = x + index * l->plane + l->origin + row;
                for (w = 0; w < l->width; w++) part[(row + w) & 15] += from[w];
            }
        }
        for (w = 0; w < 16; w++) sum += part[w];
        y = tern_clip(tern_fma((float)sum, l->scale, l->bias), l->low, l->high);
        if (l->output_float) ((float *)out)[index] = y;
        else ((uint8_t *)out)[index] = (uint8_t)tern_round(y);
    }
}
