/* x in steps of scale, to the nearest, ties to even, as ONNX QuantizeLinear does */
static inline uint8_t tern_quantize(float x, float scale, float zero_point, int32_t low, int32_t high)
{
    const int32_t q = tern_round(tern_clip(x / scale, -1024.0f, 1024.0f)) + (int32_t)zero_point;
    return (uint8_t)(q < low ? low : q > high ? high : q);
}
