"""Expands what an artifact stores into what the kernels read: numpy only, once, when a library is loaded.

Weights are stored in about as many bits as they have entropy (:mod:`tvm_schedules.ir.ternary_codec`); a kernel wants
lists of offsets. A plan names for every constant a packing of this file, its arguments and the stored arrays it starts
from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.plan import Constant
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.packing import (
    bitplanes,
    dense_conv,
    dense_conv_dot,
    dense_conv_panel,
    dense_conv_winograd,
    depthwise_conv_dot,
    gpu_conv_dot,
    gpu_linear_dot,
    linear,
    linear_dot,
    linear_pairs,
    linear_widened,
    panel_lists,
    pattern_lists,
    pool,
    popcount_linear,
    recurrent,
    tap_lists,
)

__all__ = ["PACKINGS", "expand", "halo_from", "window_from"]

Arrays = dict[str, np.ndarray]
LARGEST_GAP = 4096
"""So many bytes may be behind the last constant."""


def halo_from(data: Mapping[str, Any]) -> Halo:
    """A :class:`Halo` from its JSON form."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Halo(**fields)


def window_from(data: Mapping[str, Any]) -> Window:
    """A :class:`Window` from its JSON form."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    first, second, third = (tuple(pair) for pair in fields.pop("pads"))
    return Window(pads=(first, second, third), **fields)


def _values(arrays: Arrays, params: dict[str, Any]) -> np.ndarray:
    """8-bit weights, or the codes of a ternary weight of one term."""
    if "codes" not in arrays:
        return arrays["values"]
    return TernaryTensor.from_stored(arrays, params["shape"]).codes[0]


def _raw(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return arrays


def _rows(arrays: Arrays, params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    codes, levels = tap_lists.split_levels(TernaryTensor.from_stored(arrays, params["shape"]))
    # The epilogue's scale holds the only level.
    return codes, np.ones_like(levels) if len(codes) == 1 else levels


def _words(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    window, x = window_from(params["window"]), halo_from(params["x"])
    return bitplanes.pack(*_rows(arrays, params), window, x, params["planes"], params["limit"])


def _taps(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    codes, levels = _rows(arrays, params)
    window, x = window_from(params["window"]), halo_from(params["x"])
    return tap_lists.pack(codes, levels, window, x, params["limit"], params["index"], params["share"])


def _panel(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    codes = _values(arrays, params)
    flat = codes.reshape(*codes.shape[:2], -1)
    return panel_lists.pack(
        flat, **{k: params[k] for k in ("places", "channel", "limit", "share", "unroll")}, panel=params["channels"]
    )


def _patterns(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    codes, levels = _rows(arrays, params)
    window, x = window_from(params["window"]), halo_from(params["x"])
    fan, codes = codes.shape[2], codes.reshape(*codes.shape[:2], -1)
    groups = pattern_lists.members(np.abs(codes).max(0), params["size"], window.groups)
    address = tap_lists.addresses(window, x)
    if "limit" not in params:
        return pattern_lists.pack_bounded(codes[0], address, groups, params["index"])
    shift = fan * x.phases * x.plane
    made = pattern_lists.pack(codes, levels, address, groups, params["limit"], params["index"], shift, window.groups)
    return {name: array for name, array in made.items() if name != "levels" or len(codes) > 1}


def _dense(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    window, x = window_from(params["window"]), halo_from(params["x"])
    return dense_conv.pack(arrays["values"], window, x, params["tile"], params["dtype"], params.get("pairs", False))


def _dense_dot(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    window, x = window_from(params["window"]), halo_from(params["x"])
    return dense_conv_dot.pack(_values(arrays, params), window, x, params["tile"])


def _dense_panel(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    window, x = window_from(params["window"]), halo_from(params["x"])
    panel = dense_conv_panel.Panel(x, window, params["bytes"], params["shared"])
    return dense_conv_panel.pack(_values(arrays, params), panel, params["length"], params["tile"])


def _winograd(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return {"values": dense_conv_winograd.pack(_values(arrays, params), params["tile"])}


def _depthwise_dot(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return depthwise_conv_dot.pack(arrays["values"], window_from(params["window"]), halo_from(params["x"]))


def _linear_dot(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    values = _values(arrays, params)
    plus = {1: 12}.get(params["plus"], params["plus"])  # 1 in artifacts of earlier releases
    made = linear_dot.pack(values, params["ternary"], params["lanes"], params["tile"], plus)
    return {"values": made}


def _linear_widened(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return {"values": linear_widened.pack(_values(arrays, params), params["ternary"], params["tile"])}


def _linear_pairs(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return {"values": linear_pairs.pack(_values(arrays, params), params["ternary"], params["tile"])}


def _gpu_conv_dot(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    window, x = window_from(params["window"]), halo_from(params["x"])
    values = _values(arrays, params).reshape(params["shape"][1:])
    return gpu_conv_dot.pack(values, window, x, params["tile"], params["slices"], params["plus"])


def _gpu_linear_dot(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    values = _values(arrays, params)
    return {"words": gpu_linear_dot.pack(values, *(params[k] for k in ("ternary", "lanes", "vector", "rows")))}


def _popcount_linear(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    codes, _ = _rows(arrays, params)
    return popcount_linear.pack(codes, params["vector"], params["tile"])


def _mask(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    return {"mask": halo_from(params["x"]).mask(tuple(params["size"]), params["length"])}


def _divisor(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    x, window = halo_from(params["x"]), window_from(params["window"])
    return {"divisor": pool.divisors(x, window, tuple(params["size"]), params["length"], params["include_pad"])}


def _linear(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    if "codes" in arrays:
        weight = TernaryTensor.from_stored(arrays, params["shape"])
        values = weight.codes[0] if params["dtype"] == "int8" else weight.dequantize()
    else:
        values = arrays["values"]
    padded = params["padded"]  # artifacts of earlier releases have no other width
    return {"values": linear.pack(values, params["dtype"], padded, params.get("width", padded))}


def _recurrent(arrays: Arrays, params: dict[str, Any]) -> Arrays:
    values = []
    for direction, shape in enumerate(params["shapes"]):
        own = {name.removeprefix(f"{direction}."): a for name, a in arrays.items() if name.startswith(f"{direction}.")}
        if "codes" in own:
            weight = TernaryTensor.from_stored(own, shape)
            values.append(weight.codes[0] if params["dtype"] == "int8" else weight.dequantize())
        else:
            values.append(own["values"])
    return {"values": recurrent.pack(values, params["gates"], params["dtype"], params["padded"])}


PACKINGS: dict[str, Callable[[Arrays, dict[str, Any]], Arrays]] = {
    "raw": _raw,
    "taps": _taps,
    "panel": _panel,
    "patterns": _patterns,
    "words": _words,
    "dense": _dense,
    "dense_dot": _dense_dot,
    "dense_panel": _dense_panel,
    "winograd": _winograd,
    "depthwise_dot": _depthwise_dot,
    "mask": _mask,
    "divisor": _divisor,
    "linear": _linear,
    "linear_dot": _linear_dot,
    "linear_pairs": _linear_pairs,
    "linear_widened": _linear_widened,
    "popcount_linear": _popcount_linear,
    "recurrent": _recurrent,
    "gpu_conv_dot": _gpu_conv_dot,
    "gpu_linear_dot": _gpu_linear_dot,
}


def expand(constants: Sequence[Constant], nbytes: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Makes the constant memory of a network.

    Args:
        constants: The plan's list.
        nbytes: The size that the plan says.
        arrays: The stored arrays by name.

    Returns:
        uint8 ``[nbytes]``.

    Raises:
        KeyError: A stored array is missing.
        ValueError: An expanded constant is not as long as the plan says, or not inside of the memory.
    """
    spans = [span for constant in constants for span in constant.outputs.values()]
    end = max([span.offset + span.nbytes for span in spans], default=0)
    if not end <= nbytes <= end + LARGEST_GAP or min([span.offset for span in spans], default=0) < 0:
        raise ValueError(f"constants end at {end} bytes, the plan says {nbytes}")
    memory = np.zeros(nbytes, np.uint8)
    for constant in constants:
        made = PACKINGS[constant.packing]({k: arrays[v] for k, v in constant.arrays.items()}, dict(constant.params))
        for name, span in constant.outputs.items():
            data = np.ascontiguousarray(made[name]).reshape(-1).view(np.uint8)
            if data.nbytes != span.nbytes:
                raise ValueError(f"constant {name!r}: expanded to {data.nbytes} bytes, the plan says {span.nbytes}")
            if not 0 <= span.offset <= memory.size - data.nbytes:
                raise ValueError(f"constant {name!r} at {span.offset} is not inside of {memory.size} bytes")
            memory[span.offset : span.offset + data.nbytes] = data
    return memory
