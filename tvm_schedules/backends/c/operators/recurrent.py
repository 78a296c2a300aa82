"""The steps of an LSTM, GRU or RNN behind the product with its input; states go in and come out where there are any.

A network of one step whose states are its inputs and outputs runs frame by frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import MATH, Operator, Site
from tvm_schedules.ir.graph import DenseWeight, Node, Recurrent, Weight
from tvm_schedules.ir.ternary_tensor import TernaryTensor

OPERATORS = ("LSTM", "GRU", "RNN")

CODE = """
struct tern_recurrent {
    const void *weight;              /* [directions][gates * units][units]: four ternary ones a byte, bytes, floats */
    const float *scale, *bias;       /* of every row; behind the matrix of a GRU's last gate, for every unit */
    int32_t gates, length, batch, units, directions, row_bytes;
    uint8_t ternary, bytes, reverse[2], relu, late_reset;
};

/* What a row of the weight makes of a state. */
static float tern_recurrent_row(const struct tern_recurrent *l, int32_t row, const float *state)
{
    float sum = 0;
    int32_t k;
    if (l->ternary) {
        const uint8_t *codes = (const uint8_t *)l->weight + row * l->row_bytes;
        for (k = 0; k < l->units; k++) {
            const int code = codes[k >> 2] >> (2 * (k & 3)) & 3;
            if (code == 1) sum += state[k];
            else if (code) sum -= state[k];
        }
    } else if (l->bytes) {
        const int8_t *values = (const int8_t *)l->weight + row * l->units;
        for (k = 0; k < l->units; k++) sum = tern_fma((float)values[k], state[k], sum);
    } else {
        const float *values = (const float *)l->weight + row * l->units;
        for (k = 0; k < l->units; k++) sum = tern_fma(values[k], state[k], sum);
    }
    return sum * l->scale[row];
}

/* One step: x are the products with the input, h the state, next what it becomes; reset is memory for the units. */
static void tern_recurrent_step(const struct tern_recurrent *l, int32_t direction, const float *x, const float *h,
                                float *cell, float *next, float *reset)
{
    const int32_t n = l->units, row = direction * l->gates * n;
    int32_t u;
    if (l->gates == 3 && !l->late_reset) {
        for (u = 0; u < n; u++) reset[u] = h[u] * tern_sigmoid(x[n + u] + tern_recurrent_row(l, row + n + u, h));
    }
    for (u = 0; u < n; u++) {
        if (l->gates == 4) { /* input, output, forget, cell */
            const float in = tern_sigmoid(x[u] + tern_recurrent_row(l, row + u, h));
            const float out = tern_sigmoid(x[n + u] + tern_recurrent_row(l, row + n + u, h));
            const float keep = tern_sigmoid(x[2 * n + u] + tern_recurrent_row(l, row + 2 * n + u, h));
            const float fresh = tern_tanh(x[3 * n + u] + tern_recurrent_row(l, row + 3 * n + u, h));
            cell[u] = tern_fma(keep, cell[u], in * fresh);
            next[u] = out * tern_tanh(cell[u]);
        } else if (l->gates == 3) { /* update, reset, hidden */
            const float update = tern_sigmoid(x[u] + tern_recurrent_row(l, row + u, h));
            const float bias = l->bias[direction * n + u];
            float fresh;
            if (l->late_reset) {
                const float again = tern_sigmoid(x[n + u] + tern_recurrent_row(l, row + n + u, h));
                fresh = tern_fma(again, tern_recurrent_row(l, row + 2 * n + u, h) + bias, x[2 * n + u]);
            } else {
                fresh = x[2 * n + u] + tern_recurrent_row(l, row + 2 * n + u, reset) + bias;
            }
            fresh = tern_tanh(fresh);
            next[u] = tern_fma(update, h[u] - fresh, fresh);
        } else {
            const float sum = x[u] + tern_recurrent_row(l, row + u, h);
            next[u] = l->relu ? (sum > 0 ? sum : 0) : tern_tanh(sum);
        }
    }
}
"""

RUN = """
/* All steps of all rows; inputs and results that are not there are NULL. */
static void tern_recurrent_SHAPE(const struct tern_recurrent *l, PARAMETERS, void *scratch)
{
    const float *const x[2] = {PRODUCTS}, *h0 = FIRST_H, *c0 = FIRST_C;
    float *y = RESULT, *last_h = LAST_H, *last_c = LAST_C;
    const int32_t n = l->units, width = l->gates * n;
    float *h = scratch, *next = h + n, *cell = next + n, *reset = cell + n;
    int32_t d, b, t, u;
    for (d = 0; d < l->directions; d++)
    for (b = 0; b < l->batch; b++) {
        const int32_t own = (d * l->batch + b) * n;
        for (u = 0; u < n; u++) {
            h[u] = h0 ? h0[own + u] : 0;
            cell[u] = c0 ? c0[own + u] : 0;
        }
        for (t = 0; t < l->length; t++) {
            const int32_t at = l->reverse[d] ? l->length - 1 - t : t;
            tern_recurrent_step(l, d, x[d] + (at * l->batch + b) * width, h, cell, next, reset);
            for (u = 0; u < n; u++) h[u] = next[u];
            if (y) for (u = 0; u < n; u++) y[((at * l->directions + d) * l->batch + b) * n + u] = h[u];
        }
        for (u = 0; u < n; u++) {
            if (last_h) last_h[own + u] = h[u];
            if (last_c) last_c[own + u] = cell[u];
        }
    }
}
"""


def lower(site: Site) -> bool:
    """One call for all steps and both directions; False where a first state is a constant that is not zero."""
    node = site.node
    assert isinstance(node, Recurrent)
    count = len(node.weights)
    length, batch, width = site.graph.values[node.inputs[0]].shape
    units = width // node.gates
    firsts = [*node.inputs[count:], "", ""][:2]
    constants = [site.graph.constants.get(name) for name in firsts]
    if any(array is not None and np.any(array) for array in constants):
        return False
    given = [bool(name) and array is None for name, array in zip(firsts, constants, strict=True)]
    reads = [site.floats(node.inputs[d]) for d in range(count)]
    reads += [site.floats(name) for name, there in zip(firsts, given, strict=True) if there]
    results = [bool(name) for name in [*node.outputs, "", ""][:3]]
    writes = [site.floats(name, new=True) for name in node.outputs if name]
    kind, stored, scale = _stored(node.weights, units)
    bias = node.hidden_bias if node.op == "GRU" else np.zeros((count, units), np.float32)
    fields: dict[str, Any] = {
        "gates": node.gates,
        "length": length,
        "batch": batch,
        "units": units,
        "directions": count,
        "row_bytes": -(-units // 4),
        "ternary": kind == "ternary",
        "bytes": kind == "bytes",
        "reverse": [*node.reverse, False][:2],
        "relu": node.relu,
        "late_reset": node.late_reset,
    }
    tables = {"weight": stored, "scale": scale, "bias": bias.astype(np.float32)}
    shape = "".join(str(int(flag)) for flag in (count > 1, *given, *results))
    code = (MATH, CODE, _run(shape, count, given, results))
    op = Operator("recurrent", code, fields, tables, scratch=4 * units, function=f"recurrent_{shape}")
    _report(site, node, stored.nbytes // count)
    site.add(op, reads, writes)
    return True


def _run(shape: str, count: int, given: list[bool], results: list[bool]) -> str:
    """The function for the operands that there are."""
    products = [f"x{d}" for d in range(count)]
    states = {"FIRST_H": "h0" if given[0] else "", "FIRST_C": "c0" if given[1] else ""}
    out = dict(zip(("RESULT", "LAST_H", "LAST_C"), ("y", "h", "c"), strict=True))
    out = {word: f"{name}_out" if there else "" for (word, name), there in zip(out.items(), results, strict=True)}
    inputs = [*products, *(f"{name}_in" for name in states.values() if name)]
    parameters = [f"const void *{name}" for name in inputs] + [f"void *{name}" for name in out.values() if name]
    text = RUN.replace("SHAPE", shape).replace("PARAMETERS", ", ".join(parameters))
    text = text.replace("PRODUCTS", ", ".join([*products, "NULL"][:2]))
    for word, name in {**{w: f"{n}_in" if n else "" for w, n in states.items()}, **out}.items():
        text = text.replace(word, name or "NULL")
    return text


def _stored(weights: tuple[Weight, ...], units: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Weights of all directions as they are stored, and the scales of their rows."""
    if all(isinstance(w, TernaryTensor) and w.terms == 1 and w.is_symmetric for w in weights):
        codes = np.concatenate([w.codes[0] for w in weights if isinstance(w, TernaryTensor)])
        two = np.pad(codes.astype(np.int64) & 3, ((0, 0), (0, -units % 4))).reshape(len(codes), -1, 4)
        scale = [w.per_channel.positive[0] for w in weights if isinstance(w, TernaryTensor)]
        return "ternary", (two << np.array([0, 2, 4, 6])).sum(-1).astype(np.uint8), np.concatenate(scale)
    if all(isinstance(w, DenseWeight) and w.values.dtype == np.int8 for w in weights):
        values = np.concatenate([w.values for w in weights if isinstance(w, DenseWeight)])
        scale = [np.broadcast_to(w.scale, (len(w.values),)) for w in weights if isinstance(w, DenseWeight)]
        return "bytes", values, np.concatenate(scale).astype(np.float32)
    values = np.concatenate([w.dequantize() for w in weights]).astype(np.float32)
    return "floats", values, np.ones(len(values), np.float32)


def _report(site: Site, node: Recurrent, stored: int) -> None:
    for direction, weight in enumerate(node.weights):
        name = f"{node.name}/hidden{direction}" if len(node.weights) > 1 else f"{node.name}/hidden"
        site.report(Node(name, node.op, [], []), weight, "recurrent", stored)
