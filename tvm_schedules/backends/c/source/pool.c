/* A maximum or an average over a window; over one pixel, an elementwise operation. */
struct tern_pool {
    const tern_offset *tap;
    const float *divisor; /* for each element of the run, NULL: the same for all */
    float share, zeros;   /* the divisor of all; what the zero points add up to */
    int32_t taps, images, channels, plane;
    uint8_t average, same; /* same: nothing follows a maximum of bytes */
    uint8_t shares;        /* sums of bytes are multiplied by their shares first */
    struct tern_finish finish;
};
