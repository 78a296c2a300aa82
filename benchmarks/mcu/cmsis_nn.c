/* CMSIS-NN's int8 kernels for the layers of a network, one after the other, as layers.h lists them. */
#include "arm_nnfunctions.h"
#include "layers.h"

static int8_t x[MOST_ACTIVATIONS], y[MOST_ACTIVATIONS], weights[MOST_WEIGHTS];
static int32_t bias[MOST_OUTPUTS], multipliers[MOST_OUTPUTS], shifts[MOST_OUTPUTS], buffer[1 << 14];

static arm_cmsis_nn_status run(const struct layer *l, const int8_t *from, int8_t *to)
{
    const cmsis_nn_context ctx = {buffer, sizeof buffer};
    const cmsis_nn_activation clip = {-128, 127};
    const cmsis_nn_tile stride = {l->stride_w, l->stride_h}, padding = {l->pad_w, l->pad_h}, dilation = {1, 1};
    const cmsis_nn_per_channel_quant_params each = {multipliers, shifts};
    const cmsis_nn_per_tensor_quant_params all = {1 << 30, -8};
    const cmsis_nn_dims in = {1, l->in_h, l->in_w, l->in_c}, out = {1, l->out_h, l->out_w, l->out_c};
    const cmsis_nn_dims terms = {1, 1, 1, l->out_c};
    if (l->kind == CONVOLUTION) {
        const cmsis_nn_conv_params how = {128, -128, stride, padding, dilation, clip};
        const cmsis_nn_dims kernel = {l->out_c, l->kernel_h, l->kernel_w, l->in_c};
        if (arm_convolve_wrapper_s8_get_buffer_size(&how, &in, &kernel, &out) > ctx.size) return ARM_CMSIS_NN_FAILURE;
        return arm_convolve_wrapper_s8(&ctx, &how, &each, &in, from, &kernel, weights, &terms, bias, &out, to);
    }
    if (l->kind == DEPTHWISE) {
        const cmsis_nn_dw_conv_params how = {128, -128, 1, stride, padding, dilation, clip};
        const cmsis_nn_dims kernel = {1, l->kernel_h, l->kernel_w, l->out_c};
        if (arm_depthwise_conv_wrapper_s8_get_buffer_size(&how, &in, &kernel, &out) > ctx.size) return ARM_CMSIS_NN_FAILURE;
        return arm_depthwise_conv_wrapper_s8(&ctx, &how, &each, &in, from, &kernel, weights, &terms, bias, &out, to);
    }
    if (l->kind == LINEAR) {
        const cmsis_nn_fc_params how = {128, 0, -128, clip};
        const cmsis_nn_dims kernel = {l->in_c, 1, 1, l->out_c};
        return arm_fully_connected_s8(&ctx, &how, &all, &in, from, &kernel, weights, &terms, bias, &out, to);
    }
    if (l->kind == AVERAGE) {
        const cmsis_nn_pool_params how = {stride, padding, clip};
        const cmsis_nn_dims window = {1, l->kernel_h, l->kernel_w, 1};
        return arm_avgpool_s8(&ctx, &how, &in, from, &window, &out, to);
    }
    return arm_elementwise_add_s8(from, to, 128, 1 << 30, -1, 128, 1 << 30, -1, 20, to, -128, 1 << 30, -18, -128, 127,
                                  l->out_h * l->out_w * l->out_c);
}

int model_run(const int8_t *input, int8_t *output)
{
    int i;
    for (i = 0; i < LAYERS; i++) {
        if (run(&layers[i], i % 2 ? y : x, i % 2 ? x : y) != ARM_CMSIS_NN_SUCCESS) return 1;
    }
    *output = *input;
    return 0;
}

/* Numbers that are nothing but not all alike; main.c calls it before it begins to count. */
void model_prepare(void)
{
    uint32_t i, random = 1;
    for (i = 0; i < sizeof x; i++) x[i] = y[i] = (int8_t)((random = random * 1664525u + 1013904223u) >> 24);
    for (i = 0; i < sizeof weights; i++) weights[i] = (int8_t)((random = random * 1664525u + 1013904223u) >> 24);
    for (i = 0; i < MOST_OUTPUTS; i++) multipliers[i] = 1 << 30, shifts[i] = -8;
}
