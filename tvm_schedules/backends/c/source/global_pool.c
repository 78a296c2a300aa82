/* The average of a plane: y = clip(sum * scale + bias). */
struct tern_global_pool {
    float scale, bias, low, high;
    int32_t planes, plane, origin, depth, height, width, slice, row;
    int32_t run, between; /* elements of a plane with the halo between its rows, and what that adds; run 0: row by row */
    uint8_t output_float;
};
