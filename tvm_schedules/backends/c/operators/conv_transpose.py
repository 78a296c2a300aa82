"""Transposed convolution of images: every pixel of the result gathers the taps that reach it."""

from __future__ import annotations

import numpy as np

from tvm_schedules.backends.c.site import Operator, Site
from tvm_schedules.ir.graph import DenseWeight
from tvm_schedules.ir.ternary_tensor import TernaryTensor

OPERATORS = ("ConvTranspose",)

CODE = """
struct tern_conv_transpose {
    const WTYPE *weight;       /* [input channels][output channels of a group][height][width] */
    const float *scale, *bias; /* for each output channel */
    int32_t images, groups, inputs, outputs, height, width, to_height, to_width; /* channels of a group */
    int32_t kernel[2], stride[2], pad[2], dilation[2];
    struct tern_number from, to;
};

static void tern_conv_transpose_NAME(const struct tern_conv_transpose *l, const void *x, void *y)
{
    const int32_t pixels = l->height * l->width, taps = l->kernel[0] * l->kernel[1];
    int32_t n, o, h, w, i, j, c, at = 0;
    for (n = 0; n < l->images; n++)
    for (o = 0; o < l->groups * l->outputs; o++) {
        const int32_t group = o / l->outputs, first = (n * l->groups + group) * l->inputs;
        const WTYPE *weight = l->weight + group * l->inputs * l->outputs * taps + o % l->outputs * taps;
        for (h = 0; h < l->to_height; h++)
        for (w = 0; w < l->to_width; w++) {
            float sum = 0;
            for (i = 0; i < l->kernel[0]; i++) {
                const int32_t row = h + l->pad[0] - i * l->dilation[0];
                if (row < 0 || row % l->stride[0] || row / l->stride[0] >= l->height) continue;
                for (j = 0; j < l->kernel[1]; j++) {
                    const int32_t column = w + l->pad[1] - j * l->dilation[1];
                    const int32_t from = row / l->stride[0] * l->width + column / l->stride[1];
                    if (column < 0 || column % l->stride[1] || column / l->stride[1] >= l->width) continue;
                    for (c = 0; c < l->inputs; c++) {
                        const float value = (float)weight[c * l->outputs * taps + i * l->kernel[1] + j];
                        sum = tern_fma(tern_get(x, (first + c) * pixels + from, l->from), value, sum);
                    }
                }
            }
            tern_put(y, at++, tern_fma(sum, l->scale[o], l->bias[o]), l->to);
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Weights of bytes stay bytes, ternary ones too; False for other ranks than images'."""
    given = site.graph.weights.get(site.name(1))
    weight, bias = site.constant(1), site.constant(2)
    if weight is None or weight.ndim != 4 or (bias is None and site.name(2)):
        return False
    if site.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", "VALID", b"VALID"):
        return False
    x, y, groups = site.read(0), site.write(), int(site.attrs.get("group", 1))
    outputs = weight.shape[1] * groups
    scale = np.ones(outputs, np.float32)
    if isinstance(given, TernaryTensor) and given.terms == 1 and given.is_symmetric and groups == 1:
        axis, level = given.channel_axis, given.positive[0]
        if axis == 1 or level.size == 1:
            weight, scale = given.codes[0], np.broadcast_to(level, (outputs,)).astype(np.float32)
    elif isinstance(given, DenseWeight) and given.values.dtype == np.int8 and groups == 1 and given.channel_axis == 1:
        weight, scale = given.values, given.scale
    fields = {
        "images": x.shape[0],
        "groups": groups,
        "inputs": x.shape[1] // groups,
        "outputs": weight.shape[1],
        "height": x.shape[2],
        "width": x.shape[3],
        "to_height": y.shape[2],
        "to_width": y.shape[3],
        "kernel": list(weight.shape[2:]),
        "stride": list(site.attrs.get("strides", [1, 1])),
        "pad": list(site.attrs.get("pads", [0] * 4))[:2],
        "dilation": list(site.attrs.get("dilations", [1, 1])),
        "from": x.number,
        "to": y.number,
    }
    tables = {"weight": weight, "scale": scale, "bias": np.zeros(outputs, np.float32) if bias is None else bias}
    small = weight.dtype == np.int8
    kind = f"conv_transpose_{'i8' if small else 'f32'}"
    code = CODE.replace("tern_conv_transpose_NAME", f"tern_{kind}")
    code = code.replace("struct tern_conv_transpose ", f"struct tern_{kind} ").replace(
        "WTYPE", "int8_t" if small else "float"
    )
    site.add(Operator(kind, (code,), fields, tables), [x], [y])
    return True
