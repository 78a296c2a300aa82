"""Layers that follow each other channel by channel are computed in parts, so that only a part of what is between lives.

A float shortcut, the tensor before a global average, what a pointwise layer gives to a depthwise one: each channel of
these is read by the same channel of the next step only. The steps of such a chain run for the first channels, then for
the next ones, in memory for so many; the numbers stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm_schedules.ir.layout import Halo
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.rules import dense_conv, global_pool, pool, repack, sparse_conv
from tvm_schedules.lowering.steps import Buffer, Step

__all__ = ["Part", "in_parts", "part_of"]

Groups = Callable[[Step], int]
"""Says how many groups a convolution has; 0 of one that has to stay whole."""

COUNTS = (1, 2, 4, 8)
"""Numbers of parts."""

PASSES = 2
"""How often every chain's number is chosen anew, those of the others being what they are."""

PRICE = 38
"""Bytes of RAM that one more step has to save: its description takes about 150 bytes of flash, of which boards have
four times as much."""

_CONVOLUTIONS = (sparse_conv.NAME, dense_conv.NAME)


@dataclass
class Part(Step):
    """A step for the channels from ``first`` to ``last`` of its output; ``of`` is the whole step's name."""

    first: int = 0
    last: int = 0
    of: str = ""


def part_of(part: Part, stored: dict[str, Any], params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of stored arrays and parameters that a part of a layer has.

    Args:
        part: The step.
        stored: Arrays of a constant: weights, scales and biases have a row for each channel, others have none.
        params: Parameters of their packing.
    """
    rows = slice(part.first, part.last)
    if "window" in params and params["window"]["groups"] > 1:
        params = {**params, "window": {**params["window"], "groups": part.last - part.first}}
    if "codes" in stored:
        whole = TernaryTensor.from_stored(stored, params["shape"]).per_channel
        weight = TernaryTensor(whole.codes[:, rows], whole.positive[:, rows], whole.negative[:, rows])
        return dict(weight.stored), {**params, "shape": list(weight.codes.shape)}
    per_row = ("values", "scale", "bias")
    return {name: array[rows] if name in per_row else array for name, array in stored.items()}, params


def in_parts(steps: list[Step], groups: Groups, arena: Callable[[list[Step]], int]) -> list[Step]:
    """The steps with their chains in parts, where these take less memory than they cost.

    Args:
        steps: In execution order, before scratch memory is added.
        groups: The groups of a convolution.
        arena: Plans memory for steps and gives its size; what it has planned is undone.
    """
    chains = _chains(steps, groups)
    allowed = [[n for n in COUNTS if _channels(steps[chain[-1]]) % n == 0] for chain in chains]
    counts = [counts[-1] for counts in allowed]
    for _ in range(PASSES):
        for index, choices in enumerate(allowed):
            costs = {}
            for count in choices:
                counts[index] = count
                made = _split(steps, groups, chains, counts)
                costs[count] = arena(made) + PRICE * len(made)
            counts[index] = min(choices, key=costs.__getitem__)
    return _split(steps, groups, chains, counts)


def _places(step: Step) -> list[int]:
    """Which arguments are what a step reads and writes apart from constants; its output is the last one."""
    return [i for i, arg in enumerate(step.args) if arg.root.place is None or arg.root.place.kind != "constant"]


def _data(step: Step) -> list[Buffer]:
    """The arguments of :func:`_places`; one may be there twice, as input and as residual."""
    return [step.args[place] for place in _places(step)]


def _channels(step: Step) -> int:
    spec = step.spec
    if step.kernel == repack.NAME:
        return int(spec.target.channels)
    return int(spec.x.channels if step.kernel == global_pool.NAME else spec.epilogue.out.channels)


def _chains(steps: Sequence[Step], groups: Groups) -> list[list[int]]:
    """Numbers of steps that follow each other channel by channel, each chain begun by a convolution."""
    readers: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        for buffer in dict.fromkeys(map(id, (arg.root for arg in _data(step)))):
            readers.setdefault(buffer, []).append(index)
    found: list[list[int]] = []
    taken: set[int] = set()
    for index, step in enumerate(steps):
        if index in taken or step.kernel not in _CONVOLUTIONS or step.spec.x.batch > 1:
            continue
        if groups(step) != 1 and not _each(step, groups):
            continue
        chain = [index]
        while (after := _next(steps, groups, readers, chain[-1])) is not None and after not in taken:
            chain.append(after)
        if len(chain) > 1:
            found.append(chain)
            taken.update(chain)
    return found


def _each(step: Step, groups: Groups) -> bool:
    """Whether a convolution makes each channel of one channel."""
    return groups(step) == step.spec.x.channels == step.spec.epilogue.out.channels


def _next(steps: Sequence[Step], groups: Groups, readers: dict[int, list[int]], index: int) -> int | None:
    """The only reader of a step's output, if it reads it channel by channel."""
    out = _data(steps[index])[-1]
    after = [reader for reader in readers[id(out.root)] if reader != index]
    if len(after) != 1 or out.place is not None or out.alias is not None or after[0] < index:
        return None
    step = steps[after[0]]
    spec, (source, *others) = step.spec, _data(step)
    if step.kernel == repack.NAME:
        inside = isinstance(spec.source, Halo) and isinstance(spec.target, Halo)
        return after[0] if inside and spec.source.channels == spec.target.channels else None
    if step.kernel == global_pool.NAME or (step.kernel == pool.NAME and not spec.gated):
        return after[0]
    if step.kernel not in _CONVOLUTIONS:
        return None
    if source.root is out.root:
        return after[0] if _each(step, groups) else None
    return after[0] if out.root in [other.root for other in others[:-1]] and groups(step) == 1 else None


def _split(steps: Sequence[Step], groups: Groups, chains: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Step]:
    """All steps; those of a chain where its last one stood."""
    last = {chain[-1]: (chain, count) for chain, count in zip(chains, counts, strict=True) if count > 1}
    inside = {index for chain, _ in last.values() for index in chain}
    made: list[Step] = []
    for index, step in enumerate(steps):
        if index in last:
            chain, count = last[index]
            share = _channels(step) // count
            for first in range(0, share * count, share):
                made += _parts([steps[i] for i in chain], groups, first, first + share)
        elif index not in inside:
            made.append(step)
    return made


def _parts(chain: Sequence[Step], groups: Groups, first: int, last: int) -> list[Step]:
    """The steps of a chain for some channels; what is between them is memory of their own."""
    own = {id(_data(step)[-1].root): Buffer(_data(step)[-1].name, 0) for step in chain[:-1]}
    made: list[Step] = []
    for step in chain:
        spec, layouts = _narrowed(step, groups, last - first)
        args = list(step.args)
        for place, whole, layout in layouts:
            buffer = args[place]
            part = own.get(id(buffer.root))
            nbytes = _nbytes(layout, last - first)
            if part is not None:
                part.nbytes, part.tail = max(part.nbytes, nbytes), getattr(layout, "tail", 0)
            else:
                part = Buffer(buffer.name, nbytes, None, buffer, _nbytes_before(whole, first))
            args[place] = part
        name = f"{step.name}, channels {first} to {last - 1}"
        made.append(Part(name, step.kernel, spec, step.make, args, step.info, first, last, step.name))
    return made


def _narrowed(step: Step, groups: Groups, channels: int) -> tuple[Any, list[tuple[int, Any, Any]]]:
    """A step's spec for so many channels, and of which arguments it has a part, with their whole and new layouts."""

    def fewer(layout: Any) -> Any:
        return None if layout is None else replace(layout, channels=channels)

    spec, places = step.spec, _places(step)
    if step.kernel == repack.NAME:
        new = replace(spec, source=fewer(spec.source), target=fewer(spec.target))
        return new, [(places[0], spec.source, new.source), (places[-1], spec.target, new.target)]
    if step.kernel == global_pool.NAME:
        new = replace(spec, x=fewer(spec.x))
        return new, [(places[0], spec.x, new.x), (places[-1], spec.out, spec.out)]
    ends = spec.epilogue
    epilogue = replace(ends, out=fewer(ends.out), residual=fewer(ends.residual))
    tensors = [(places[-1], ends.out, epilogue.out)]
    if ends.residual is not None:
        tensors.append((places[-2], ends.residual, epilogue.residual))
    if step.kernel == pool.NAME or groups(step) > 1:
        new = replace(spec, x=fewer(spec.x), epilogue=epilogue)
        return new, [(places[0], spec.x, new.x), *tensors]
    return replace(spec, epilogue=epilogue), tensors


def _nbytes(layout: Any, channels: int) -> int:
    """Bytes of a tensor: planes, or one number a channel of the type that is given instead."""
    return int(layout.nbytes) if isinstance(layout, Halo) else channels * (4 if layout == "float32" else 1)


def _nbytes_before(layout: Any, channels: int) -> int:
    if isinstance(layout, Halo):
        return channels * layout.phases * layout.plane * layout.itemsize
    return _nbytes(layout, channels)
