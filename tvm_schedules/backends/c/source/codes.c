/* Ternary weights, row after row, in one of two codes. Trits: five weights a byte, value v = sum of (weight + 1) * 3**k
   stored as ceil(v * 256 / 243), so that multiplying by 3 brings them out, first weight first; zero weights fill the last byte. Gaps: distances of the
   weights +1, two zeros, distances of the weights -1, two zeros; a zero and a number mean as much further without a
   weight there. */
struct tern_codes {
    const uint8_t *data;
    const tern_offset *tap;      /* offsets of a channel's taps, ascending */
    int32_t channels, taps, channel; /* channels of a row, taps of a channel, elements from channel to channel */
    int32_t capacity;            /* entries of a row's list */
    uint8_t gaps;                /* the code: gaps, else trits */
};
