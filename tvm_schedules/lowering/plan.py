"""From a lowered graph to the :class:`~tvm_schedules.ir.plan.Plan` of the network, for every back end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import DevicePlan, LayerInfo, Plan, StepInfo, TensorInfo

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["make_plan"]

SMALLEST_CONSTANTS = 64
"""Bytes of the constant memory of a network without constants: compiled code takes no empty arrays."""


def make_plan(
    graph: Graph, lowering: Lowering, arena_bytes: int | None = None, device: DevicePlan | None = None
) -> Plan:
    """The plan of a lowered network.

    Args:
        graph: The network.
        lowering: After its ``run``, and after every buffer has got a place.
        arena_bytes: See :class:`Plan`.
        device: See :class:`Plan`.
    """

    def tensors(names: Sequence[str]) -> tuple[TensorInfo, ...]:
        values = [graph.values[name] for name in names]
        return tuple(TensorInfo(v.name, v.shape, v.dtype, in_place=lowering.carried.get(v.name)) for v in values)

    def chosen(name: str) -> dict[str, Any]:
        made = lowering.configs.chosen.get(name)
        return {} if made is None else {"choice": dict(made.knobs)}

    return Plan(
        inputs=tensors(graph.inputs),
        outputs=tensors(graph.outputs),
        steps=tuple(StepInfo(step.name, step.kernel, {**step.info, **chosen(step.name)}) for step in lowering.steps),
        layers=tuple(LayerInfo.from_json(layer) for layer in lowering.layers),
        constant_bytes=max(SMALLEST_CONSTANTS, lowering.constants.nbytes),
        constants=tuple(lowering.constants.entries),
        arena_bytes=arena_bytes,
        device=device,
    )
