"""What is in a file: the weights of an ONNX model, an artifact or a checkpoint, layer by layer."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading, reading_model, reason
from tvm_schedules.errors import ArtifactError, ModelError, TernError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.ir.ternary_tensor import TernaryTensor

Array = npt.NDArray[Any]
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Layer:
    """One weight.

    Attributes:
        name: Path of the module or name of the weight.
        op: Operator, empty where the file does not say (checkpoints).
        shape: Shape of the weight as stored.
        kind: ``ternary``, ``ternary values`` (stored as floats that happen to be ternary), ``int8`` or ``float``.
        terms: Number of ternary terms, 0 for others.
        sparsity: Share of zeros, in [0, 1].
        entropy: Bits of information per weight (see ``TernaryTensor.entropy``), None for others.
        bits: Bits per weight as stored, in the artifact if it is one, with levels that are stored beside it.
        levels: Smallest and largest level, None for others.
        bytes: Stored bytes.
        kernel: Kernel that runs it, None outside of an artifact.
        reason: Why that kernel.
        step: Name of the artifact's step that computes with it, None outside of an artifact.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    kind: str
    terms: int
    sparsity: float
    entropy: float | None
    bits: float
    levels: tuple[float, float] | None
    bytes: int
    kernel: str | None = None
    reason: str | None = None
    step: str | None = None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Inspection:
    """Everything found in a file.

    Attributes:
        path: The file or directory.
        kind: ``onnx``, ``artifact`` or ``checkpoint``.
        layers: The weights, in the file's order.
        files: Sizes in bytes of the artifact's files, or of the file itself.
        details: Target, quantization and verification of an artifact.
    """

    path: str
    kind: str
    layers: tuple[Layer, ...]
    files: dict[str, int]
    details: dict[str, Any]

    def totals(self) -> dict[str, Any]:
        """Weights, bytes, share of zeros and compression against float32, over all layers and over the ternary ones."""
        result: dict[str, Any] = {}
        groups = {"all": self.layers, "ternary": [layer for layer in self.layers if layer.kind.startswith("ternary")]}
        for name, layers in groups.items():
            weights = sum(layer.weights for layer in layers)
            stored = sum(layer.bytes for layer in layers)
            zeros = sum(layer.sparsity * layer.weights for layer in layers)
            result[name] = {
                "layers": len(layers),
                "weights": weights,
                "bytes": stored,
                "float32_bytes": 4 * weights,
                "sparsity": zeros / weights if weights else 0.0,
                "compression": 4 * weights / stored if stored else None,
            }
        return result

    def to_dict(self) -> dict[str, Any]:
        """The fields and what follows from them, in JSON types."""
        return {**asdict(self), "totals": self.totals()}


def _ternary_layer(name: str, op: str, tensor: TernaryTensor, stored: int, kind: str) -> Layer:
    levels = np.concatenate([tensor.positive.ravel(), tensor.negative.ravel()])
    return Layer(
        name=name,
        op=op,
        shape=tensor.shape,
        kind=kind,
        terms=tensor.terms,
        sparsity=tensor.sparsity(),
        entropy=tensor.entropy(),
        bits=8 * stored / max(1, int(np.prod(tensor.shape))),
        levels=(float(levels.min()), float(levels.max())),
        bytes=stored,
    )


def _float_layer(name: str, op: str, value: Array, axis: int) -> Layer:
    """A weight stored as floats, which may be ternary by value."""
    tensor = TernaryTensor.from_values(value, axis)
    if tensor is not None and np.any(tensor.codes == 0):
        return _ternary_layer(name, op, tensor, value.nbytes, "ternary values")
    zeros = float((value == 0).mean()) if value.size else 0.0
    return Layer(name, op, tuple(value.shape), "float", 0, zeros, None, 8.0 * value.itemsize, None, value.nbytes)


@reading_model()
def onnx_layers(model: Any) -> list[tuple[str, Layer]]:
    """The weights of the convolutions and matrix products of an ONNX model, each with its node's name."""
    constants = onnxtools.constant_arrays(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    two_bit = _types(model, ("INT2",))
    result = []
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            names = [name for name in (node.input[1], node.input[0]) if name in constants][:1]
        else:
            names = [name for name in node.input[1:3] if name in constants] if node.op_type in RECURRENT else []
        result += [(node.name or name, _weight(node, name, producers, constants, two_bit)) for name in names]
    return result


def _weight(node: Any, name: str, producers: dict[str, Any], constants: dict[str, Array], two_bit: set[str]) -> Layer:
    """A weight of a node, by the name of the tensor that it reads."""
    sources = _sources(name, producers, constants)
    dequantized = [source for source in sources if source.op_type == "DequantizeLinear"]
    first = dequantized[0].input[0] if dequantized else name
    path = first.removesuffix(".term0").removesuffix(".weight")
    if dequantized and all(source.input[0] in two_bit for source in dequantized):
        return _stored_ternary(path, node.op_type, dequantized, constants)
    value = constants[name]
    if dequantized:
        size = sum(constants[entry].nbytes for source in dequantized for entry in source.input if entry)
        zeros = float((value == 0).mean())
        return Layer(path, node.op_type, tuple(value.shape), "int8", 0, zeros, None, 8 * size / value.size, None, size)
    transposed = node.op_type in ("ConvTranspose", "MatMul") or (
        node.op_type == "Gemm" and not onnxtools.attribute(node, "transB", 0)
    )
    return _float_layer(path, node.op_type, value, 1 if transposed and value.ndim > 1 else 0)


def _types(model: Any, names: tuple[str, ...]) -> set[str]:
    import onnx

    wanted = {getattr(onnx.TensorProto, name) for name in names}
    return {tensor.name for tensor in model.graph.initializer if tensor.data_type in wanted}


def _sources(name: str, producers: dict[str, Any], constants: dict[str, Array]) -> list[Any]:
    """The DequantizeLinear nodes whose sum a constant is, in order; other nodes only pass on."""
    node = producers.get(name)
    if node is None or name not in constants:
        return []
    if node.op_type == "DequantizeLinear":
        return [node]
    return [source for entry in node.input for source in _sources(entry, producers, constants)]


def _stored_ternary(path: str, op: str, nodes: list[Any], constants: dict[str, Array]) -> Layer:
    codes = np.stack([constants[node.input[0]] for node in nodes])
    if codes.min(initial=0) < -1:
        raise ModelError(f"2-bit weight of {path!r} has the value -2; only -1, 0 and +1 are ternary")
    scales = [constants[node.input[1]].reshape(-1) for node in nodes]
    width = max(scale.size for scale in scales)
    positive = np.stack([np.broadcast_to(scale, (width,)) for scale in scales]).astype(np.float32)
    axis = onnxtools.attribute(nodes[0], "axis", 1) % (codes.ndim - 1) if width > 1 else 0
    stored = sum((code.size + 3) // 4 for code in codes) + sum(scale.nbytes for scale in scales)
    return _ternary_layer(path, op, TernaryTensor(codes, positive, positive, axis), stored, "ternary")


@reading("the artifact", ArtifactError)
def _artifact(path: Path) -> Inspection:
    from tvm_schedules.artifact import store

    metadata = store.read_metadata(path)
    kernels = {step["name"]: step for step in [*metadata["steps"], *metadata["layers"]]}
    found = [(entry["name"], _recorded(entry)) for entry in metadata["layers"]]  # what the compiler has written down
    if (path / store.MODEL).is_file():
        with contextlib.suppress(ImportError):  # a board without the onnx package
            found = _by_file(onnx_layers(read_model(path / store.MODEL)), found)
    layers = []
    for node, layer in found:
        step = kernels.get(node) or kernels.get(layer.name) or {"name": None}
        # The ONNX file has two bits a weight; the artifact's own form is smaller.
        own = {key: step[key] for key in ("bits", "bytes", "kernel", "reason") if key in step}
        layers.append(Layer(**asdict(layer) | own | {"step": step["name"]}))
    files = {name: entry["bytes"] for name, entry in metadata["files"].items() if (path / name).is_file()}
    files[store.METADATA] = (path / store.METADATA).stat().st_size
    keys = ("created", "target", "quantization", "verification", "packages", "inputs", "outputs")
    details = {key: metadata[key] for key in keys} | {key: metadata.get(key) for key in ("code", "unverified")}
    details["memory"] = {key: metadata["memory"].get(key) for key in ("arena_bytes", "constant_bytes", "cortex_m7")}
    return Inspection(str(path), "artifact", tuple(layers), files, details)


def _by_file(of_file: list[tuple[str, Layer]], recorded: list[tuple[str, Layer]]) -> list[tuple[str, Layer]]:
    """The weights as the ONNX file has them; those of recurrent nodes as the compiler has split them."""
    plain = [(node, layer) for node, layer in of_file if layer.op not in RECURRENT]
    known = {name for node, layer in of_file for name in (node, layer.name)}
    return plain + [(node, layer) for node, layer in recorded if node not in known]


def _recorded(entry: dict[str, Any]) -> Layer:
    levels = entry["levels"]
    span = (float(np.min(levels)), float(np.max(levels))) if isinstance(levels, list) and levels else None
    shape = tuple(entry["shape"])
    return Layer(
        entry["name"], "", shape, "ternary", entry["terms"], entry["sparsity"], entry["entropy"], entry["bits"], span,
        entry["bytes"]
    )  # fmt: skip


def _checkpoint(path: Path) -> Inspection:
    try:
        import torch
    except ImportError:
        raise TernError(f"reading the checkpoint {path} needs PyTorch: pip install 'tern-lightning[train]'") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TernError(f"{path} is not a readable checkpoint: {reason(error)}") from error
    with reading(f"checkpoint {path}", TernError):
        layers = _state_layers(path, content)
    return Inspection(str(path), "checkpoint", tuple(layers), {path.name: path.stat().st_size}, {})


def _state_layers(path: Path, content: Any) -> list[Layer]:
    """The weights of a checkpoint."""
    import torch

    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise TernError(f"{path} holds no state_dict")
    layers = []
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.ndim > 1 and value.is_floating_point() and value.numel():
            array = value.float().numpy()
            # A checkpoint does not say which axis is the output's: 1 only for transposed convolutions.
            axis = 0 if TernaryTensor.from_values(array, 0) is not None else 1
            layers.append(_float_layer(str(name).removesuffix(".weight"), "", array, axis))
    return layers


def inspect(source: str | os.PathLike[str]) -> Inspection:
    """Look into an ONNX file, an artifact or a Lightning checkpoint.

    Args:
        source: ``.onnx`` file, artifact directory, or a checkpoint (any other file).

    Raises:
        TernError: The file does not exist or cannot be read.
    """
    path = user_path(source, "source")
    if path.is_dir():
        return _artifact(path)
    if not path.is_file():
        raise TernError(f"{path} does not exist; give an .onnx file, an artifact directory or a checkpoint")
    if path.suffix == ".onnx":
        layers = [layer for _, layer in onnx_layers(read_model(path))]
        return Inspection(str(path), "onnx", tuple(layers), {path.name: path.stat().st_size}, {})
    return _checkpoint(path)
