/* The average of a plane: y = clip(sum * scale + bias). */
struct tern_global_pool {
    float scale, bias, low, high;
    int32_t planes, plane, origin, depth, height, width, slice, row;
    uint8_t output_float;
};
