"""The steps of an LSTM, GRU or RNN: a hidden state times a matrix, gates, and again, all of them in one call.

Units of the hidden state are the vector lanes, and the gates of a unit stand side by side, so that sums go from
registers into its gates. A job has some rows of the batch, from the first step to the last, in one direction.

Bound by reading the weights: once a step for all rows of a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.fallback import approximations
from tvm_schedules.ir.graph import Fused, Node, Recurrent, Weight
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.steps import Buffer

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

_sigmoid = partial(approximations.sigmoid, fma=True)
_tanh = partial(approximations.tanh, fma=True)

NAME = "recurrent"
"""What artifacts and tuning databases call this kernel."""

MOST_ROWS = 4
"""Rows of the batch that a job has at most: they share what is read of the weights."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        kind: ``"LSTM"``, ``"GRU"`` or ``"RNN"``.
        gates: Products with the hidden state: 4, 3 or 1.
        length: Steps T.
        batch: Rows B.
        hidden: Units H.
        reverse: For every direction, whether it begins with the last step.
        weights: ``"int8"`` or ``"float32"``.
        relu: Whether an RNN has ``relu`` in the place of ``tanh``.
        late_reset: Whether a GRU multiplies by the reset gate behind its matrix.
        first: Whether there is a first hidden state, and a first cell state; they are zero else.
        results: Which are written: all hidden states, the last ones, the last cell states.
        vector: Bytes a vector register.
        rows: Rows of the batch that a job has, a divisor of ``batch``.
        tile: Vectors of units whose sums are in registers at a time, a divisor of their number.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
    """

    kind: str
    gates: int
    length: int
    batch: int
    hidden: int
    reverse: tuple[bool, ...]
    weights: str
    relu: bool
    late_reset: bool
    first: tuple[bool, bool]
    results: tuple[bool, bool, bool]
    vector: int
    rows: int
    tile: int
    parallel: bool
    fma: bool

    @property
    def lanes(self) -> int:
        """Units a vector."""
        return self.vector // 4

    @property
    def padded(self) -> int:
        """Units rounded up to whole vectors."""
        return -(-self.hidden // self.lanes) * self.lanes

    @property
    def state(self) -> int:
        """Elements of a state of the whole batch in all directions."""
        return len(self.reverse) * self.batch * self.hidden


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``gates of every direction, values, scale, bias, [h, c,] [all, h, c]``."""
    count = len(spec.reverse)
    sizes = [(f"gates{i}", "float32", spec.length * spec.batch * spec.gates * spec.hidden) for i in range(count)]
    sizes += [("values", spec.weights, count * spec.hidden * spec.gates * spec.padded)]
    sizes += [("scale", "float32", count * spec.gates * spec.padded), ("bias", "float32", count * spec.padded)]
    sizes += [(name, "float32", spec.state) for name, there in zip(("h", "c"), spec.first, strict=True) if there]
    lengths = (spec.length * spec.state, spec.state, spec.state)
    names = ("out", "last_h", "last_c")
    sizes += [(n, "float32", s) for n, s, there in zip(names, lengths, spec.results, strict=True) if there]

    def body(e: Emitter, *pointers: Any) -> None:
        views = {name: e.view(p, size, dtype) for p, (name, dtype, size) in zip(pointers, sizes, strict=True)}
        blocks = spec.batch // spec.rows
        with e.jobs(count * blocks, spec.parallel) as job:
            for direction in range(count):
                with e.when(job // blocks == direction):
                    _Code(e, spec, views, direction, job % blocks * spec.rows).run()

    return kernel_function([(name, dtype) for name, dtype, _ in sizes], body)


class _Code:
    """The code of one direction.

    Attributes:
        row: Number of the job's first row in the batch.
        h: Hidden states of the job's rows.
        next: Those that a step makes; of a GRU with an early reset, the hidden states times the reset gate.
        c: Cell states of an LSTM.
        update: Update gates of a GRU with an early reset.
        sums: Sums of each gate, row and vector of a tile.
    """

    def __init__(self, e: Emitter, spec: Spec, views: dict[str, Any], direction: int, row: Any) -> None:
        self.e, self.spec, self.views, self.direction, self.row = e, spec, views, direction, row
        self.type, size = f"float32x{spec.lanes}", spec.rows * spec.padded
        self.h, self.next = e.scratch(size, "float32"), e.scratch(size, "float32")
        self.c = e.scratch(size, "float32") if spec.kind == "LSTM" else None
        self.update = e.scratch(size, "float32") if spec.kind == "GRU" and not spec.late_reset else None
        self.sums = [e.local(spec.lanes, "float32") for _ in range(spec.gates * spec.rows * spec.tile)]

    def run(self) -> None:
        """All steps."""
        e, spec = self.e, self.spec
        self._begin("h", self.h)
        if self.c is not None:
            self._begin("c", self.c)
        with e.loop(spec.length) as step:
            time = spec.length - 1 - step if spec.reverse[self.direction] else step
            if self.update is not None:
                self._tiles(time, self.h, (0, 1), self._reset)
                self._tiles(time, self.next, (2,), self._update)
            else:
                self._tiles(time, self.h, range(spec.gates), self._unit)
                for r in range(spec.rows):
                    self._copy(self.h, r * spec.padded, self.next, r * spec.padded, spec.padded)
            if "out" in self.views:
                self._give("out", self.h, time * spec.state)
        self._give("last_h", self.h)
        if self.c is not None:
            self._give("last_c", self.c)

    # -- states -------------------------------------------------------------------------------------------------------
    def _begin(self, name: str, state: Any) -> None:
        """A first state: the caller's, or zeros."""
        e, spec = self.e, self.spec
        with e.loop(spec.rows * spec.padded // spec.lanes) as i:
            e.store(state, i * spec.lanes, e.const(0.0, self.type), spec.lanes)
        if name in self.views:
            for r in range(spec.rows):
                self._copy(state, r * spec.padded, self.views[name], self._place(r), spec.hidden)

    def _give(self, name: str, state: Any, first: Any = 0) -> None:
        """A state to whoever reads it, if somebody does."""
        for r in range(self.spec.rows if name in self.views else 0):
            self._copy(self.views[name], first + self._place(r), state, r * self.spec.padded, self.spec.hidden)

    def _place(self, r: int) -> Any:
        """Where a row of a state begins."""
        return (self.direction * self.spec.batch + self.row + r) * self.spec.hidden

    def _copy(self, to: Any, first: Any, source: Any, begin: Any, count: int) -> None:
        e, lanes = self.e, self.spec.lanes
        with e.loop(count // lanes) as i:
            e.store(to, first + i * lanes, e.load(source, begin + i * lanes, lanes), lanes)
        with e.loop(count % lanes) as i:
            at = count // lanes * lanes + i
            e.store(to, first + at, e.load(source, begin + at))

    # -- a step -------------------------------------------------------------------------------------------------------
    def _tiles(
        self, time: Any, source: Any, gates: Sequence[int], finish: Callable[[Any, int, Any, dict[int, Any]], None]
    ) -> None:
        """Multiplies a state by the weights of some gates, and gives each vector of sums of them to ``finish``.

        It gets the step, the row, the place of the vector's first unit, and the sums by gate.
        """
        e, spec, lanes = self.e, self.spec, self.spec.lanes
        keys = [(g, r, u) for g in gates for r in range(spec.rows) for u in range(spec.tile)]
        sums = dict(zip(keys, self.sums, strict=False))
        with e.loop(spec.padded // lanes // spec.tile) as block:
            base = block * (spec.tile * lanes)
            for part in sums.values():
                e.store(part, 0, e.const(0.0, self.type), lanes)
            with e.loop(spec.hidden) as k:
                state = [e.splat(e.load(source, r * spec.padded + k), lanes) for r in range(spec.rows)]
                for g in gates:
                    for u in range(spec.tile):
                        at = ((self.direction * spec.hidden + k) * spec.gates + g) * spec.padded + base + u * lanes
                        weight = e.cast(e.load(self.views["values"], at, lanes), self.type)
                        for r in range(spec.rows):
                            old = e.load(sums[g, r, u], 0, lanes)
                            new = e.fma(state[r], weight, old) if spec.fma else old + state[r] * weight
                            e.store(sums[g, r, u], 0, new, lanes)
            for r in range(spec.rows):
                for u in range(spec.tile):
                    unit = base + u * lanes
                    finish(time, r, unit, {g: self._scaled(sums[g, r, u], g, unit) for g in gates})

    def _scaled(self, part: Any, gate: int, unit: Any) -> Any:
        at = (self.direction * self.spec.gates + gate) * self.spec.padded + unit
        return self.e.load(part, 0, self.spec.lanes) * self.e.load(self.views["scale"], at, self.spec.lanes)

    def _input(self, time: Any, r: int, gate: int, unit: Any) -> Any:
        """What the input adds to a gate; lanes behind the last unit hold anything, and nobody reads their results."""
        spec = self.spec
        at = ((time * spec.batch + self.row + r) * spec.gates + gate) * spec.hidden + unit
        return self.e.load(self.views[f"gates{self.direction}"], at, spec.lanes)

    def _unit(self, time: Any, r: int, unit: Any, sums: dict[int, Any]) -> None:
        """The next hidden state of a vector of units."""
        e, spec, at = self.e, self.spec, r * self.spec.padded + unit
        given = [self._input(time, r, g, unit) for g in range(spec.gates)]
        if spec.kind == "LSTM":
            into, out, keep, cell = (given[g] + sums[g] for g in range(4))
            kept = _sigmoid(keep) * e.load(self.c, at, spec.lanes)
            e.store(self.c, at, kept + _sigmoid(into) * _tanh(cell), spec.lanes)
            made = _sigmoid(out) * _tanh(e.load(self.c, at, spec.lanes))
        elif spec.kind == "GRU":
            bias = e.load(self.views["bias"], self.direction * spec.padded + unit, spec.lanes)
            fresh = _tanh(given[2] + _sigmoid(given[1] + sums[1]) * (sums[2] + bias))
            made = self._mixed(_sigmoid(given[0] + sums[0]), fresh, e.load(self.h, at, spec.lanes))
        else:
            total = given[0] + sums[0]
            made = e.max(total, e.const(0.0, self.type)) if spec.relu else _tanh(total)
        e.store(self.next, at, made, spec.lanes)

    def _mixed(self, update: Any, fresh: Any, old: Any) -> Any:
        one = self.e.const(1.0, self.type)
        return (one - update) * fresh + update * old

    def _reset(self, time: Any, r: int, unit: Any, sums: dict[int, Any]) -> None:
        """The update gates of a GRU with an early reset, and its hidden states times the reset gates."""
        e, spec, at = self.e, self.spec, r * self.spec.padded + unit
        e.store(self.update, at, _sigmoid(self._input(time, r, 0, unit) + sums[0]), spec.lanes)
        reset = _sigmoid(self._input(time, r, 1, unit) + sums[1])
        e.store(self.next, at, reset * e.load(self.h, at, spec.lanes), spec.lanes)

    def _update(self, time: Any, r: int, unit: Any, sums: dict[int, Any]) -> None:
        """The next hidden state of a GRU with an early reset."""
        e, spec, at = self.e, self.spec, r * self.spec.padded + unit
        bias = e.load(self.views["bias"], self.direction * spec.padded + unit, spec.lanes)
        fresh = _tanh(self._input(time, r, 2, unit) + sums[2] + bias)
        gate, old = e.load(self.update, at, spec.lanes), e.load(self.h, at, spec.lanes)
        e.store(self.h, at, self._mixed(gate, fresh, old), spec.lanes)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes recurrent layers."""
    if not isinstance(node, Recurrent):
        return False
    count, gates = len(node.weights), node.gates
    length, batch, width = ctx.graph.values[node.inputs[0]].shape
    hidden, vector = width // gates, ctx.target.vector_bytes
    weights = "int8" if all(map(_in_bytes, node.weights)) else "float32"
    macs = count * length * batch * width * hidden
    rows = max(n for n in range(1, MOST_ROWS + 1) if batch % n == 0)
    vectors, registers = -(-hidden // (vector // 4)), 16 if vector == 64 or ctx.target.arm64 else 8
    tile = max(n for n in (1, 2, 4, 8) if n == 1 or (vectors % n == 0 and gates * rows * n <= registers))
    names = [*node.inputs[count:], ""][:2]
    results = tuple(bool(name) for name in node.outputs)
    spec = Spec(
        kind=node.op,
        gates=gates,
        length=length,
        batch=batch,
        hidden=hidden,
        reverse=node.reverse,
        weights=weights,
        relu=node.relu,
        late_reset=node.late_reset,
        first=(bool(names[0]), bool(names[1])),
        results=(results[0], results[1], results[2]),
        vector=vector,
        rows=rows,
        tile=tile,
        parallel=macs > ctx.serial * 40,
        fma=ctx.fma,
    )
    states = [_state(ctx, node, name) for name in names if name]
    args = [*(ctx.plain(name) for name in node.inputs[:count]), *_constants(ctx, node, spec), *states]
    reason = f"{length} steps of {batch} row{'s' * (batch > 1)}, units in the lanes, weights as {weights}"
    stored, zeros = _report(ctx, node, reason)
    info: dict[str, Any] = {"macs": macs, "nonzero_macs": round(macs * (1 - zeros)), "work": macs}
    info |= {"bytes_weights": stored, "reason": reason}
    ctx.add_step(node, NAME, spec, [*args, *(ctx.new_plain(name) for name in node.outputs if name)], info)
    return True


def _state(ctx: Lowering, node: Recurrent, name: str) -> Buffer:
    """A first state, which may be a constant."""
    if name in ctx.graph.constants:
        array = np.ascontiguousarray(ctx.graph.constants[name], np.float32)
        return ctx.constants.add(node.name, "raw", {f"first {name}": array})[f"first {name}"]
    return ctx.plain(name)


def _constants(ctx: Lowering, node: Recurrent, spec: Spec) -> list[Buffer]:
    """The weights of all directions, their levels, and what is added behind them."""
    arrays: dict[str, np.ndarray] = {}
    scale = np.ones((len(node.weights), spec.gates, spec.padded), np.float32)
    bias = np.zeros((len(node.weights), spec.padded), np.float32)
    bias[:, : spec.hidden] = node.hidden_bias
    shapes: list[list[int]] = []
    for direction, weight in enumerate(node.weights):
        shapes.append(list(weight.codes.shape) if isinstance(weight, TernaryTensor) else [])
        if isinstance(weight, TernaryTensor):
            arrays |= {f"{direction}.{name}": array for name, array in weight.stored.items()}
        else:
            arrays[f"{direction}.values"] = weight.values if spec.weights == "int8" else weight.dequantize()
        if spec.weights == "int8":
            level = weight.per_channel.positive[0] if isinstance(weight, TernaryTensor) else weight.scale
            scale[direction, :, : spec.hidden] = level.reshape(spec.gates, spec.hidden)
    params = {"shapes": shapes, "gates": spec.gates, "dtype": spec.weights, "padded": spec.padded}
    values = ctx.constants.add(node.name, "recurrent", arrays, params)["values"]
    numeric = ctx.constants.add(node.name, "raw", {"scale": scale, "bias": bias})
    return [values, numeric["scale"], numeric["bias"]]


def _in_bytes(weight: Weight) -> bool:
    """Whether bytes and one scale a row are all of a weight."""
    if isinstance(weight, TernaryTensor):
        return weight.terms == 1 and weight.is_symmetric
    return weight.values.dtype == np.int8


def _report(ctx: Lowering, node: Recurrent, reason: str) -> tuple[int, float]:
    """Notes the weights for reports; their stored bytes, and the share of zeros."""
    stored, zeros = 0, 0.0
    for direction, weight in enumerate(node.weights):
        name = f"{node.name}/hidden{direction}" if len(node.weights) > 1 else f"{node.name}/hidden"
        ctx.report(Node(name, node.op, [], []), weight, NAME, reason)
        stored += weight.nbytes() if isinstance(weight, TernaryTensor) else weight.values.nbytes
        zeros += weight.sparsity() / len(node.weights) if isinstance(weight, TernaryTensor) else 0.0
    return stored, zeros
