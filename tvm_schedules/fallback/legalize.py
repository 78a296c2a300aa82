"""Relax operators -> PrimFuncs, where TVM's own lowering would keep this package's templates from doing their work.

Three kinds of entries: elementary functions become polynomials that vectorize, heavy operators get a tag (:mod:`tags`)
that keeps them out of TVM's fusion and tells a template what they are, and reshapes stay reshapes, which cost nothing
at run time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tvm_schedules.fallback import approximations, scatter, take, top
from tvm_schedules.fallback.conv_geometry import conv_geometry, pack_channels, pack_columns, transposed_geometry
from tvm_schedules.fallback.tags import KEY, OPAQUE

__all__ = ["legalization_map"]

Legalizer = Callable[[Any, Any], Any]


def legalization_map(vector_bytes: int, fma: bool) -> dict[str, Legalizer]:
    """Legalization functions by Relax operator, for ``relax.transform.LegalizeOps``.

    Args:
        vector_bytes: Width of a vector register, 16, 32 or 64 bytes; weights are packed for it.
        fma: See :mod:`tvm_schedules.fallback.approximations`.
    """
    lanes = vector_bytes // 4
    table: dict[str, Legalizer] = {
        "relax.exp": _elementwise("exp", approximations.exp, fma),
        "relax.tanh": _elementwise("tanh", approximations.tanh, fma),
        "relax.erf": _elementwise("erf", approximations.erf, fma),
        "relax.sigmoid": _elementwise("sigmoid", approximations.sigmoid, fma),
        "relax.power": _power,
        "relax.nn.silu": _elementwise("silu", approximations.silu, fma),
        "relax.nn.gelu": _elementwise("gelu", approximations.gelu, fma),
        "relax.nn.gelu_tanh": _elementwise("gelu_tanh", approximations.gelu_tanh, fma),
        "relax.nn.softmax": _tagged("relax.nn.softmax", _softmax_tag),
        "relax.nn.log_softmax": _tagged("relax.nn.log_softmax", _softmax_tag),
        "relax.nn.layer_norm": _tagged("relax.nn.layer_norm", _layer_norm_tag),
        "relax.concat": _tagged("relax.concat", _concat_tag),
        "relax.cumsum": _cumulative_sum,
        "relax.scatter_elements": _scatter,
        "relax.scatter_nd": _scatter,
        "relax.take": take.legalize,
        "relax.permute_dims": lambda bb, call: _permute(bb, call, lanes),
        "relax.topk": top.legalize,
        "relax.matmul": lambda bb, call: _matmul(bb, call, lanes),
    }
    for name in ("sum", "mean", "prod", "variance"):
        table[f"relax.{name}"] = _tagged(f"relax.{name}", _reduce_tag)
    for name in ("max", "min"):
        table[f"relax.{name}"] = _extreme
    for name in ("reshape", "flatten", "squeeze", "expand_dims"):
        table[f"relax.{name}"] = _as_reshape
    for rank in (1, 2, 3):
        table[f"relax.nn.conv{rank}d"] = lambda bb, call: _convolution(bb, call, lanes, transposed=False)
        table[f"relax.nn.conv{rank}d_transpose"] = lambda bb, call: _convolution(bb, call, lanes, transposed=True)
        for kind in ("max", "avg"):
            table[f"relax.nn.{kind}_pool{rank}d"] = _tagged(f"relax.nn.{kind}_pool{rank}d", _pool_tag)
    return table


def default(name: str) -> Legalizer:
    """TVM's own legalization of an operator."""
    import tvm

    return tvm.ir.Op.get(name).get_attr("FLegalize")


def shape_of(expr: Any) -> list[int]:
    """Static shape of a Relax tensor expression."""
    return [int(dim) for dim in expr.ty.shape.values]


def _is_float32(*exprs: Any) -> bool:
    return all(str(e.ty.dtype) == "float32" for e in exprs)


def _constant(expr: Any) -> np.ndarray | None:
    value: Any = getattr(expr, "value", None)
    return np.asarray(value.numpy()) if value is not None and hasattr(value, "numpy") else None


def _attach(bb: Any, call: Any, tag: dict[str, Any]) -> Any:
    """Tags the PrimFunc of a ``call_tir``."""
    gv = call.args[0]
    bb.update_func(gv, bb.get()[gv].with_attr("op_pattern", OPAQUE).with_attr(KEY, json.dumps(tag)))
    return call


def _tagged(name: str, describe: Callable[[Any, str], dict[str, Any] | None]) -> Legalizer:
    def legalize(bb: Any, call: Any) -> Any:
        usable = name == "relax.concat" or (_is_float32(call.args[0]) and 0 not in shape_of(call.args[0]))
        tag = describe(call, name) if usable else None
        out = default(name)(bb, call)
        return out if tag is None else _attach(bb, out, tag)

    return legalize


def _elementwise(name: str, function: Callable[[Any, bool], Any], fma: bool) -> Legalizer:
    def legalize(bb: Any, call: Any) -> Any:
        if not _is_float32(call.args[0]):
            return default(call.op.name)(bb, call)
        from tvm import te

        def compute(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: function(x(*i), fma), name=name)

        return bb.call_te(compute, call.args[0], primfunc_name_hint=f"tir_{name}")

    return legalize


def _power(bb: Any, call: Any) -> Any:
    """Powers of a constant that are products or roots; a call of the C library for every element is no SIMD."""
    exponent = _constant(call.args[1])
    usable = (
        exponent is not None and exponent.size and _is_float32(*call.args) and shape_of(call.args[0]) == shape_of(call)
    )
    power = float(exponent.flat[0]) if usable and exponent is not None and np.ptp(exponent) == 0 else None
    if power not in _POWERS:
        return default("relax.power")(bb, call)
    from tvm import te

    def compute(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: _POWERS[power](x(*i)), name="power")

    return bb.call_te(compute, call.args[0], primfunc_name_hint="tir_power")


def _root(x: Any) -> Any:
    from tvm import tirx

    return tirx.sqrt(x)


_POWERS: dict[float | None, Callable[[Any], Any]] = {
    -2.0: lambda x: _f32(1.0) / (x * x),
    -1.0: lambda x: _f32(1.0) / x,
    -0.5: lambda x: _f32(1.0) / _root(x),
    0.5: _root,
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: (x * x) * (x * x),
}
"""Powers without a call."""


def _f32(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32")


def _as_reshape(bb: Any, call: Any) -> Any:
    from tvm import relax

    return relax.op.reshape(call.args[0], shape_of(call)) if call.op.name != "relax.reshape" else call


def _permute(bb: Any, call: Any, lanes: int) -> Any:
    shape = shape_of(call.args[0])
    axes = call.attrs.axes
    order = [int(a) for a in axes] if axes is not None else list(range(len(shape)))[::-1]
    moved = [a for a in order if shape[a] != 1]
    if moved == sorted(moved):
        from tvm import relax

        return relax.op.reshape(call.args[0], shape_of(call))
    out = default("relax.permute_dims")(bb, call)
    shape, order = _merged(shape, order)
    turned = order[-1] != len(shape) - 1 and min(shape[-1], shape[order[-1]]) >= lanes
    if not turned or not _is_float32(call.args[0]):
        return out
    return _attach(bb, out, {"kind": "transpose", "shape": shape, "axes": order})


def _merged(shape: list[int], order: list[int]) -> tuple[list[int], list[int]]:
    """The same transpose with fewer axes: those of one element are left out, those that stay neighbors become one."""
    kept = [axis for axis, size in enumerate(shape) if size != 1]
    runs: list[list[int]] = []
    for place in (kept.index(axis) for axis in order if shape[axis] != 1):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    ordered = sorted(runs)
    return [math.prod(shape[kept[place]] for place in run) for run in ordered], [ordered.index(run) for run in runs]


def _softmax_tag(call: Any, name: str) -> dict[str, Any]:
    shape = shape_of(call.args[0])
    axis = int(call.attrs.axis) % len(shape)
    return {
        "kind": "softmax",
        "log": name.endswith("log_softmax"),
        "outer": math.prod(shape[:axis]),
        "count": shape[axis],
        "inner": math.prod(shape[axis + 1 :]),
    }


def _layer_norm_tag(call: Any, name: str) -> dict[str, Any] | None:
    shape = shape_of(call.args[0])
    axes = sorted(int(a) % len(shape) for a in call.attrs.axes)
    if axes != list(range(len(shape) - len(axes), len(shape))) or len(call.args) != 3:
        return None
    count = math.prod(shape[axes[0] :])
    if any(math.prod(shape_of(a)) != count for a in call.args[1:]):
        return None
    return {
        "kind": "layer_norm",
        "outer": math.prod(shape[: axes[0]]),
        "count": count,
        "epsilon": float(call.attrs.epsilon),
        "scale": bool(call.attrs.scale),
        "center": bool(call.attrs.center),
    }


def _reduce_tag(call: Any, name: str) -> dict[str, Any] | None:
    shape = shape_of(call.args[0])
    axes = range(len(shape)) if call.attrs.axis is None else [int(a) % len(shape) for a in call.attrs.axis]
    real = [a for a in sorted(axes) if shape[a] != 1]
    if not real or any(shape[a] != 1 for a in range(real[0], real[-1]) if a not in real):
        return None
    return {
        "kind": "reduce",
        "operation": name.removeprefix("relax."),
        "outer": math.prod(shape[: real[0]]),
        "count": math.prod(shape[a] for a in real),
        "inner": math.prod(shape[real[-1] + 1 :]),
    }


def _extreme(bb: Any, call: Any) -> Any:
    """Largest and smallest elements, which may be infinite: TVM's own are no less than the least finite number."""
    name, dtype, shape = call.op.name, str(call.ty.dtype), shape_of(call.args[0])
    if not dtype.startswith("float") or not shape or 0 in shape:
        return default(name)(bb, call)
    from tvm import te, tirx

    axes = range(len(shape)) if call.attrs.axis is None else sorted(int(a) % len(shape) for a in call.attrs.axis)
    keeps, largest = bool(call.attrs.keepdims), name.endswith("max")
    start = -math.inf if largest else math.inf
    best = te.comm_reducer(
        (lambda a, b: tirx.Max(a, b)) if largest else (lambda a, b: tirx.Min(a, b)),
        lambda kind: tirx.const(start, kind),
        name=name[-3:],
    )

    def compute(x: Any) -> Any:
        inner = {axis: te.reduce_axis((0, shape[axis]), name=f"k{axis}") for axis in axes}

        def element(*place: Any) -> Any:
            outer = iter(p for i, p in enumerate(place) if not keeps or i not in inner)
            return best(
                x(*(inner[i] if i in inner else next(outer) for i in range(len(shape)))), axis=[*inner.values()]
            )

        return te.compute(shape_of(call), element, name=name[-3:])

    result = bb.call_te(compute, call.args[0], primfunc_name_hint=name[-3:])
    tag = _reduce_tag(call, name) if _is_float32(call.args[0]) else None
    return result if tag is None else _attach(bb, result, tag)


def _concat_tag(call: Any, name: str) -> dict[str, Any] | None:
    from tvm import relax

    if not isinstance(call.args[0], relax.Tuple):
        return None
    fields = list(call.args[0].fields)  # kept, or a wrapper's place in memory is the next one's too
    shapes = [shape_of(field) for field in fields]
    axis = int(call.attrs.axis) % len(shapes[0])
    if math.prod(shape_of(call)) == 0 or any(a.same_as(b) for i, a in enumerate(fields) for b in fields[:i]):
        return None
    return {"kind": "concat", "outer": math.prod(shapes[0][:axis]), "sizes": [math.prod(s[axis:]) for s in shapes]}


def _cumulative_sum(bb: Any, call: Any) -> Any:
    from tvm import te, tirx

    if call.attrs.axis is None or str(call.ty.dtype) != str(call.args[0].ty.dtype):
        return call
    shape, dtype = shape_of(call.args[0]), str(call.ty.dtype)
    axis = int(call.attrs.axis) % len(shape)
    exclusive = int(bool(call.attrs.exclusive))

    def compute(x: Any) -> Any:
        k = te.reduce_axis((0, shape[axis]), name="k")

        def element(*i: Any) -> Any:
            value = tirx.Select(k + exclusive <= i[axis], x(*i[:axis], k, *i[axis + 1 :]), tirx.const(0, dtype))
            return te.sum(value, axis=k)

        return te.compute(shape, element, name="cumsum")

    result = bb.call_te(compute, call.args[0], primfunc_name_hint="cumsum")
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    tag = {"kind": "scan", "outer": outer, "count": shape[axis], "inner": inner, "exclusive": exclusive}
    return _attach(bb, result, tag)


def _scatter(bb: Any, call: Any) -> Any:
    data, indices = (shape_of(call.args[i]) for i in range(2))
    reduction = str(call.attrs.reduction)
    if 0 in (*data, *indices) or reduction not in ("update", "add", "mul", "min", "max"):
        return default(call.op.name)(bb, call)
    axis = int(call.attrs.axis) % len(data) if call.op.name == "relax.scatter_elements" else None
    tag = {"kind": "scatter", "reduction": reduction, "size": math.prod(data), **scatter.plan(data, indices, axis)}
    return _attach(bb, bb.call_te(scatter.expression(tag, data), *call.args[:3], primfunc_name_hint="scatter"), tag)


def _pool_tag(call: Any, name: str) -> dict[str, Any] | None:
    attrs = call.attrs
    shape = shape_of(call.args[0])
    if not str(attrs.layout).startswith("NC") or len(str(attrs.layout)) != len(shape):
        return None
    rank = len(shape) - 2
    kernel, strides, dilation = ([int(v) for v in a] for a in (attrs.pool_size, attrs.strides, attrs.dilation))
    padding = [int(p) for p in attrs.padding]
    if len(padding) == rank:
        padding = padding * 2
    return {
        "kind": "pool",
        "operation": "max" if "max" in name else "avg",
        "include_pad": bool(getattr(attrs, "count_include_pad", False)),
        "kernel": kernel,
        "strides": strides,
        "dilation": dilation,
        "begin": padding[:rank],
        "end": padding[rank:],
    }


def _matmul(bb: Any, call: Any, lanes: int) -> Any:
    a, b = call.args
    sa, sb = shape_of(a), shape_of(b)
    if not _is_float32(a, b) or min(len(sa), len(sb)) < 2 or 0 in (*sa, *sb):
        return default("relax.matmul")(bb, call)
    weight = _constant(b)
    if weight is None or math.prod(sb[:-2]) != 1:
        tag: dict[str, Any] = {"kind": "matmul", "a": sa, "b": sb, "out": shape_of(call)}
        return _attach(bb, default("relax.matmul")(bb, call), tag)
    from tvm import relax, te

    packed, width = pack_columns(weight.reshape(sb[-2:]), lanes)
    out = shape_of(call)

    def compute(x: Any, w: Any) -> Any:
        k = te.reduce_axis((0, sa[-1]), name="k")
        lead = len(out) - len(sa)
        return te.compute(
            out,
            lambda *i: te.sum(x(*i[lead:-1], k) * w(i[-1] // width, k, i[-1] % width), axis=k),
            name="matmul",
        )

    result = bb.call_te(compute, a, relax.const(packed), primfunc_name_hint="matmul")
    tag = {"kind": "matmul_packed", "rows": math.prod(sa[:-1]), "depth": sa[-1], "columns": sb[-1], "width": width}
    return _attach(bb, result, tag)


def _convolution(bb: Any, call: Any, lanes: int, transposed: bool) -> Any:
    x, w = call.args
    attrs = call.attrs
    layouts = ("IODHW"[:2], "OI")[not transposed], str(attrs.kernel_layout)[:2], str(attrs.data_layout)[:2]
    weight = _constant(w)
    usable = weight is not None and layouts[0] == layouts[1] and layouts[2] == "NC" and _is_float32(x, w)
    if not usable or weight is None or 0 in (*shape_of(x), *shape_of(call)):
        return default(call.op.name)(bb, call)
    make = transposed_geometry if transposed else conv_geometry
    made = make(shape_of(x), weight, shape_of(call), attrs)
    if made is None:
        return default(call.op.name)(bb, call)
    geometry, weight = made
    from tvm import relax

    from tvm_schedules.fallback.conv_expression import convolution

    packed, width = pack_channels(weight, geometry.groups, lanes)
    result = bb.call_te(
        lambda data, kernel: convolution(data, kernel, geometry, width),
        x,
        relax.const(packed),
        primfunc_name_hint="conv_transpose" if transposed else "conv",
    )
    return _attach(bb, result, {"kind": "conv", "width": width, **geometry.to_json()})
