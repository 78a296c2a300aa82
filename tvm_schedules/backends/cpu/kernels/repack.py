"""Copies a tensor from one layout to another, converting between float and 8-bit on the way.

Plain tensors are read and written with any strides, so that the rows of a linear layer can become planes and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import fill_borders, fill_gap
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.layout import ALIGN, Halo
from tvm_schedules.lowering.rules.repack import NAME, Spec, Strided

__all__ = ["NAME", "Spec", "emit"]

FEW = 8
"""Planes that are too few for threads to share them equally."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``source, params, target``.

    8-bit to float: ``(q - params[1]) * params[0]``. Float to 8-bit: ``clip(round(x / params[0]) + params[1],
    params[2], params[3])``, as ONNX ``DequantizeLinear`` and ``QuantizeLinear`` do.
    """
    source, target = spec.source, spec.target
    phase = target.phase if isinstance(target, Halo) else (1, 1, 1)
    if isinstance(source, Halo) and source.phase != (1, 1, 1):
        raise ValueError(f"a repack reads planes that are not split into phases, got phase {source.phase}")

    # The three planes of an image are no work that threads can share equally: then a job has the rows of one phase.
    turns = phase[1] if phase[0] == 1 and source.batch * source.channels < FEW else 1

    # For a stride of two even and odd pixels are read together. Bytes part as the halves of 16-bit words.
    pairs = phase[2] == 2 and (isinstance(source, Halo) or source.strides[4] == 1)
    both = source.dtype == target.dtype == "uint8"
    most = spec.vector // (1 if both and not pairs else 2 if pairs and target.dtype == "uint8" else 4)

    def whole(e: Emitter, count: int) -> Iterator[tuple[Any, int]]:
        """Loops over ``count`` elements: start and width of vectors. The last one may do elements once more."""
        if not count:
            return
        width = min(most, 1 << count.bit_length() - 1)
        with e.loop(count // width) as i:
            yield i * width, width
        if count % width:
            yield count - width, width

    def split(e: Emitter, dst: Any, value: Any, where: Any, width: int) -> None:
        odd = target.plane if isinstance(target, Halo) else 0
        if target.dtype != "uint8":
            for parity in (0, 1):
                e.store(dst, where + parity * odd, e.shuffle([value], list(range(parity, 2 * width, 2))), width)
            return
        words = f"uint16x{width}" if width > 1 else "uint16"
        word, small = e.bits(value, words), words.replace("uint16", "uint8")
        e.store(dst, where, e.cast(word & e.const(255, words), small), width)
        e.store(dst, where + odd, e.cast(word >> e.const(8, words), small), width)

    def quotient(e: Emitter, value: Any, number: list[Any], f32: str) -> Any:
        """``value / scale``, correctly rounded, without a division a vector; values stay finite, just past the bounds.

        One step of correction by the remainder, which is exact: Markstein, "Computation of elementary functions on the
        IBM RISC System/6000 processor", 1990.
        """
        scale, zero, low, high = number
        one = e.const(1.0, f32)
        value = e.min(e.max(value, (low - zero - one) * scale), (high - zero + one) * scale)
        inverse = one / scale
        near = value * inverse
        return e.fma(e.fma(near, scale * e.const(-1.0, f32), value), inverse, near)

    def convert(e: Emitter, value: Any, params: Any, width: int) -> Any:
        if source.dtype == target.dtype:
            return value
        f32 = f"float32x{width}" if width > 1 else "float32"
        u8, i32 = f32.replace("float32", "uint8"), f32.replace("float32", "int32")
        number = [e.splat(e.load(params, i), width) for i in range(4)]
        if target.dtype == "float32":
            return (e.cast(value, f32) - number[1]) * number[0]
        y = e.round(quotient(e, value, number, f32) if spec.fma else value / number[0]) + number[1]
        y = e.min(e.max(y, number[2]), number[3])
        return e.cast(e.cast(y, i32), u8)

    def body(e: Emitter, *pointers: Any) -> None:
        src = e.view(pointers[0], source.elements, source.dtype)
        params = e.view(pointers[1], 4, "float32")
        dst = e.view(pointers[2], target.elements, target.dtype)

        def address(layout: Halo | Strided, n: Any, c: Any, at: tuple[Any, Any, Any], part: int) -> Any:
            if isinstance(layout, Strided):
                by = layout.strides
                return n * by[0] + c * by[1] + at[0] * by[2] + at[1] * by[3] + at[2] * by[4]
            steps = layout.steps()
            plane = ((n * layout.channels + c) * layout.phases + part) * layout.plane + layout.origin
            return plane + at[0] * steps[0] + at[1] * steps[1] + at[2] * steps[2]

        def surround(e: Emitter, dst: Any, plane: Any, size: list[int]) -> None:
            """Fills what of a plane is no pixel: before, behind and between rows; all of it where rows are short."""
            assert isinstance(target, Halo)
            gap, lanes = target.pitch[1] - size[2], ALIGN // target.itemsize
            short = 5 * target.plane < 2 * size[1] * lanes
            if min(size) <= 0 or target.grid[0] > 1 or short:
                with e.loop(target.plane // lanes) as i:
                    at = plane * target.plane + i * lanes
                    e.store(dst, at, e.const(target.fill, f"{target.dtype}x{lanes}"), lanes)
                return
            fill_borders(e, target, dst, 0, plane, (size[1] - 1) * target.pitch[1] + size[2])
            with e.loop(size[1] - 1) as h:
                fill_gap(e, target, dst, plane * target.plane + target.origin + h * target.pitch[1] + size[2], gap)

        def copy(
            e: Emitter,
            src: Any,
            dst: Any,
            params: Any,
            n: Any,
            c: Any,
            part: int,
            first: tuple[int, ...],
            size: list[int],
        ) -> None:
            """The pixels of a plane, or of two that are read together."""
            step_from = (source.strides[4] if isinstance(source, Strided) else 1) * phase[2]
            step_to = target.strides[4] if isinstance(target, Strided) else 1
            with e.loop(size[0]) as d, e.loop(size[1]) as h:
                rows = (d * phase[0] + first[0], h * phase[1] + first[1])
                for w, width in whole(e, size[2] - source.dims[2] % 2 if pairs else size[2]):
                    where = address(target, n, c, (d, h, w), part)
                    if pairs:
                        near = e.load(src, address(source, n, c, (*rows, w * 2), 0), 2 * width)
                        split(e, dst, convert(e, near, params, 2 * width), where, width)
                        continue
                    value = e.load(src, address(source, n, c, (*rows, w * phase[2] + first[2]), 0), width, step_from)
                    e.store(dst, where, convert(e, value, params, width), width, step_to)
                if pairs and source.dims[2] % 2:
                    last = e.load(src, address(source, n, c, (*rows, source.dims[2] - 1), 0))
                    e.store(dst, address(target, n, c, (d, h, size[2] - 1), part), convert(e, last, params, 1))

        with e.jobs(source.batch * source.channels * turns, spec.parallel) as job:
            plane, turn = job // turns, job % turns
            n, c = plane // source.channels, plane % source.channels
            planes = [
                (part, first, [-(-(n_ - f) // s) for n_, f, s in zip(source.dims, first, phase, strict=True)])
                for part, first in enumerate(product(*(range(s) for s in phase)))
            ]
            if isinstance(target, Halo):
                for part, first, size in planes:
                    with e.when(turn == first[1] % turns):
                        surround(e, dst, plane * target.phases + part, size)
            for part, first, size in planes:
                if min(size) > 0 and not (pairs and first[2]):
                    with e.when(turn == first[1] % turns):
                        copy(e, src, dst, params, n, c, part, first, size)

    return kernel_function([("source", source.dtype), ("params", "float32"), ("target", target.dtype)], body)
