/* Copies [images][channels][depth][height][width] between two orders in memory; steps part the target into planes of
   every so many pixels, as strided convolutions read them. */
struct tern_repack {
    int32_t images, channels, depth, height, width;
    int32_t steps[3];             /* of depth, height, width */
    int32_t from[5], from_origin; /* elements from image to image, channel, slice, row, pixel; the first pixel */
    int32_t to[5], to_origin, to_plane;
    int32_t to_fill, to_elements; /* of a channel, what is filled first: from where and how much, 0 for a plain tensor */
    float fill, scale, zero_point;
    int32_t low, high; /* bounds of 8-bit numbers made from float */
};
