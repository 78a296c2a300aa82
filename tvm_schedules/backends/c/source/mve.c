#if defined(TERN_MVE)
/* Four sums as floats. */
TERN_INLINE float32x4_t tern_lanes_i16(const int16_t *sum) { return vcvtq_f32_s32(vldrhq_s32(sum)); }
TERN_INLINE float32x4_t tern_lanes_i32(const int32_t *sum) { return vcvtq_f32_s32(vldrwq_s32(sum)); }
TERN_INLINE float32x4_t tern_lanes_f32(const float *sum) { return vldrwq_f32(sum); }
TERN_INLINE float32x4_t tern_lanes_u8(const uint8_t *x) { return vcvtq_f32_u32(vldrbq_u32(x)); }

TERN_INLINE void tern_store_f32(float *out, float32x4_t y, float low, float high)
{
    vstrwq_f32(out, vminnmq_f32(vmaxnmq_f32(y, vdupq_n_f32(low)), vdupq_n_f32(high)));
}

TERN_INLINE void tern_store_u8(uint8_t *out, float32x4_t y, int32_t low, int32_t high)
{
    vstrbq_s32((int8_t *)out, vminq_s32(vmaxq_s32(vcvtnq_s32_f32(y), vdupq_n_s32(low)), vdupq_n_s32(high)));
}
#endif
