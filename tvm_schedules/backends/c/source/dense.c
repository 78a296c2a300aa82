/* A convolution with a dense weight [rows][channels of a group][taps]. */
struct tern_dense {
    const void *weight;
    const tern_offset *tap;
    int32_t channels, taps, channel; /* channels of a row, taps of a channel, elements from channel to channel */
    int32_t images, rows, group_rows, image, group;
    struct tern_finish finish;
};
