/* The sums of all terms, each with its levels. */
static inline void tern_terms_@X@(const struct tern_ternary *l, const struct tern_taps *taps, int32_t row,
                                  const @XTYPE@ *from, float *y)
{
    int32_t t, i;
    for (i = 0; i < TERN_BLOCK; i++) y[i] = 0;
    for (t = 0; t < l->terms; t++) {
        const struct tern_taps *p = &taps[t];
        const float *level = l->level ? l->level + 2 * (row * l->terms + t) : NULL;
        const int apart = l->unequal >> t & 1;
        tern_term_@X@(from, l->limit, p->plus, p->plus_count, p->minus, apart ? 0 : p->minus_count, level ? level[0] : 0, y);
        if (apart) tern_term_@X@(from, l->limit, p->plus, 0, p->minus, p->minus_count, level[1], y);
    }
}
