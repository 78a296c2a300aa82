"""The plan: what the compiler says about a network to the files of an artifact, and these to the runtime.

:func:`tvm_schedules.lowering.plan.make_plan` makes it of a lowered graph, for every back end. :meth:`Plan.to_json` is
the only place that writes it and :meth:`Plan.from_json` the only one that reads it; the keys are those of
``metadata.json``. The list of constants is long and nothing to read: artifacts keep it with the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tvm_schedules.ir.graph import Quant

__all__ = [
    "Argument",
    "Constant",
    "DevicePlan",
    "KernelInfo",
    "Launch",
    "LayerInfo",
    "Plan",
    "Span",
    "StepInfo",
    "TensorInfo",
]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the network.

    Attributes:
        name: As in the ONNX file.
        shape: As compiled.
        dtype: Numpy's name of the element type.
        quant: Of a float tensor that callers of the C form may give or take in 8 bits instead.
        batch: Whether the first axis counts samples that do not depend on each other.
        in_place: Of an output, the input that it is apart from a few elements. One step copies it at the begin of the
            network, and nothing else reads it: who gives both the same memory leaves out these steps, which come first.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None = None
    batch: bool = False
    in_place: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON types; ``quant``, ``batch`` and ``in_place`` only where they are set."""
        made: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        if self.quant is not None:
            made["quant"] = {"scale": self.quant.scale, "zero_point": self.quant.zero_point}
        made |= {} if self.in_place is None else {"in_place": self.in_place}
        return made | ({"batch": True} if self.batch else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorInfo:
        """The inverse of :meth:`to_json`."""
        quant = data.get("quant")
        made = None if quant is None else Quant(quant["scale"], quant["zero_point"])
        return cls(
            data["name"], tuple(data["shape"]), data["dtype"], made, bool(data.get("batch")), data.get("in_place")
        )


@dataclass(frozen=True)
class StepInfo:
    """One kernel call.

    Attributes:
        name: The node's name, with a suffix where it takes several calls.
        kernel: The kernel's name.
        info: What reports print of it, in JSON types: ``op``, ``reason``, ``fused``, ``macs``, ``choice``, ...
    """

    name: str
    kernel: str
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {"name": self.name, "kernel": self.kernel, **self.info}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepInfo:
        """The inverse of :meth:`to_json`."""
        return cls(data["name"], data["kernel"], {k: v for k, v in data.items() if k not in ("name", "kernel")})


@dataclass(frozen=True)
class LayerInfo:
    """A layer with a weight.

    Attributes:
        name: The node's name.
        kernel: The kernel that runs it.
        reason: Why that one.
        shape: The weight's shape.
        terms: Number of ternary terms, 0 for a dense weight.
        sparsity: Share of zeros, in [0, 1].
        entropy: Bits of information per weight, None for a dense weight.
        bits: Stored bits per weight.
        bytes: Stored bytes.
        levels: Smallest and largest level of a ternary weight, else nothing.
    """

    name: str
    kernel: str
    reason: str
    shape: tuple[int, ...]
    terms: int
    sparsity: float
    entropy: float | None
    bits: float
    bytes: int
    levels: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {**vars(self), "shape": list(self.shape), "levels": list(self.levels)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerInfo:
        """The inverse of :meth:`to_json`; what else there is is left out."""
        known = {entry.name: data[entry.name] for entry in fields(cls)}
        return cls(**{**known, "shape": tuple(data["shape"]), "levels": tuple(data["levels"])})


@dataclass(frozen=True)
class Span:
    """A part of the constant memory.

    Attributes:
        offset: Its first byte.
        nbytes: How many there are.
    """

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Constant:
    """One entry of a plan's list of constants.

    Attributes:
        packing: Name of a function of :data:`tvm_schedules.packing.registry.PACKINGS`; files call it ``recipe``.
        params: Its arguments, in JSON types.
        arrays: The arrays that it takes: its own name of each, and the name that it is stored by.
        outputs: Where the arrays that it makes lie, by its own names of them.
    """

    packing: str
    params: Mapping[str, Any]
    arrays: Mapping[str, str]
    outputs: Mapping[str, Span]

    def to_json(self) -> dict[str, Any]:
        """JSON types, as artifacts store them."""
        outputs = {name: asdict(span) for name, span in self.outputs.items()}
        return {"recipe": self.packing, "params": self.params, "arrays": self.arrays, "outputs": outputs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Constant:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError, AttributeError: Not the form of a constant.
        """
        outputs = {name: Span(span["offset"], span["nbytes"]) for name, span in data["outputs"].items()}
        return cls(data["recipe"], data["params"], data["arrays"], outputs)


@dataclass(frozen=True)
class KernelInfo:
    """What is needed to start a kernel of a graphics processor.

    Attributes:
        name: In the source.
        grid: Groups of threads along three axes.
        threads: Threads of a group.
        order: Which of the kernel's arguments the source takes, in its order.
    """

    name: str
    grid: tuple[int, int, int]
    threads: int
    order: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {**vars(self), "grid": list(self.grid), "order": list(self.order)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KernelInfo:
        """The inverse of :meth:`to_json`."""
        x, y, z = data["grid"]
        return cls(data["name"], (x, y, z), data["threads"], tuple(data["order"]))


@dataclass(frozen=True)
class Argument:
    """A buffer that a kernel gets.

    Attributes:
        kind: ``input``, ``output``, ``slot`` or ``constant``.
        index: The buffer's number; of a constant, its first byte in the constant memory.
        nbytes: How long a constant is.
    """

    kind: str
    index: int
    nbytes: int = 0

    def to_json(self) -> list[Any]:
        """The fields in JSON types."""
        return [self.kind, self.index, *([self.nbytes] if self.kind == "constant" else [])]


@dataclass(frozen=True)
class Launch:
    """The start of a kernel.

    Attributes:
        kernel: Number of the kernel.
        args: Its arguments, as declared.
    """

    kernel: int
    args: tuple[Argument, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {"kernel": self.kernel, "args": [argument.to_json() for argument in self.args]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Launch:
        """The inverse of :meth:`to_json`."""
        return cls(data["kernel"], tuple(Argument(*argument) for argument in data["args"]))


@dataclass(frozen=True)
class DevicePlan:
    """What a graphics processor carries out.

    Attributes:
        slots: Sizes in bytes of the buffers between kernels.
        slack: Bytes that kernels may read past the end of a buffer.
        kernels: Every kernel once.
        launches: Their starts, in order.
    """

    slots: tuple[int, ...]
    slack: int
    kernels: tuple[KernelInfo, ...]
    launches: tuple[Launch, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        made: dict[str, Any] = {"slots": list(self.slots), "slack": self.slack}
        made["kernels"] = [kernel.to_json() for kernel in self.kernels]
        return made | {"launches": [launch.to_json() for launch in self.launches]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DevicePlan:
        """The inverse of :meth:`to_json`."""
        kernels = tuple(KernelInfo.from_json(kernel) for kernel in data["kernels"])
        launches = tuple(Launch.from_json(launch) for launch in data["launches"])
        return cls(tuple(data["slots"]), data["slack"], kernels, launches)


_DEVICE = tuple(entry.name for entry in fields(DevicePlan))


@dataclass(frozen=True)
class Plan:
    """A compiled network, without its code.

    Attributes:
        inputs: What it reads.
        outputs: What it writes.
        steps: The kernel calls in order.
        layers: The layers with a weight.
        constant_bytes: Size of the constant memory that kernels read.
        constants: How that memory is made; empty where the code holds its constants itself, and in what
            :meth:`from_json` makes without them.
        arena_bytes: Size of the memory between steps, None where there is no arena.
        device: For a graphics processor, None for others.
        details: What else a back end tells about memory, in JSON types.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    steps: tuple[StepInfo, ...]
    layers: tuple[LayerInfo, ...]
    constant_bytes: int
    constants: tuple[Constant, ...] = ()
    arena_bytes: int | None = None
    device: DevicePlan | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def counting(self, names: Collection[str]) -> Plan:
        """The plan of a network that runs on any number of samples.

        Args:
            names: Inputs whose first axes count samples, as those of all outputs then do; none changes nothing.
        """
        if not names:
            return self
        inputs = tuple(replace(entry, batch=entry.batch or entry.name in names) for entry in self.inputs)
        return replace(self, inputs=inputs, outputs=tuple(replace(entry, batch=True) for entry in self.outputs))

    def to_json(self) -> dict[str, Any]:
        """The plan without ``constants`` in JSON types, in the parts that ``metadata.json`` has."""
        memory: dict[str, Any] = {} if self.arena_bytes is None else {"arena_bytes": self.arena_bytes}
        memory |= {"constant_bytes": self.constant_bytes, **({} if self.device is None else self.device.to_json())}
        parts = {"inputs": self.inputs, "outputs": self.outputs, "steps": self.steps, "layers": self.layers}
        made: dict[str, Any] = {name: [entry.to_json() for entry in part] for name, part in parts.items()}  # type: ignore[attr-defined]
        return {**made, "memory": {**memory, **self.details}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], constants: Sequence[Constant] = ()) -> Plan:
        """The inverse of :meth:`to_json`.

        Args:
            data: An artifact's metadata, or what :meth:`to_json` made.
            constants: The list of constants, which is elsewhere.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: Not the form of a plan.
        """
        memory = data["memory"]
        known = ("arena_bytes", "constant_bytes", *_DEVICE)
        return cls(
            inputs=tuple(TensorInfo.from_json(entry) for entry in data["inputs"]),
            outputs=tuple(TensorInfo.from_json(entry) for entry in data["outputs"]),
            steps=tuple(StepInfo.from_json(entry) for entry in data["steps"]),
            layers=tuple(LayerInfo.from_json(entry) for entry in data["layers"]),
            constant_bytes=memory["constant_bytes"],
            constants=tuple(constants),
            arena_bytes=memory.get("arena_bytes"),
            device=DevicePlan.from_json(memory) if "launches" in memory else None,
            details={name: value for name, value in memory.items() if name not in known},
        )
