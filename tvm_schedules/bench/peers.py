"""What a user would otherwise run: the same network in onnxruntime, in float32, in int8, and the 2-bit file itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import load_samples, store
from tvm_schedules.backends import registry
from tvm_schedules.common.files import user_path
from tvm_schedules.common.near import meant
from tvm_schedules.engines.process import BY_FILE, Engine
from tvm_schedules.errors import BenchError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend.onnx_file import read_model

KNOWN = ("onnxruntime",)
OTHERS = (
    f"{', '.join(f'{name}=FILE' for name in BY_FILE)} measures a file that you converted for another engine. "
    "tern-bench --suite measures networks of its own beside OpenVINO, ExecuTorch and DeepSparse, each of which has the "
    "environment that --peer-python names: python3.11 -m venv /envs/openvino && /envs/openvino/bin/pip install "
    "openvino nncf onnx && tern-bench --suite --peer-python openvino=/envs/openvino/bin/python (what the others need: "
    "tern-bench --suite --help)"
)
"""Where the engines are that an artifact is not measured against."""


def by_file(text: str, pythons: Mapping[str, str]) -> Engine:
    """An engine with its own file of the network.

    Args:
        text: ``KIND=FILE``, such as ``litert=net.tflite``; kinds are those of
            :data:`~tvm_schedules.engines.process.BY_FILE`.
        pythons: Interpreters of environments that have engines, by kind; this one for others.

    Raises:
        BenchError: The kind is not known, or there is no such file.
    """
    kind, _, name = text.partition("=")
    if kind not in BY_FILE:
        hint = meant(kind, tuple(BY_FILE)) or ""
        known = (*KNOWN, *(f"{one}=FILE" for one in BY_FILE))
        raise BenchError(f"against must be one of {', '.join(known)}, got {text!r}{hint}")
    path = user_path(name, "against")
    if not path.is_file():
        raise BenchError(f"against {text!r}: {path} is no file")
    weights = path.with_suffix(".bin")  # of ncnn and OpenVINO
    size = path.stat().st_size + (weights.stat().st_size if path.suffix != ".bin" and weights.is_file() else 0)
    return Engine(f"{BY_FILE[kind]} {path.name}", kind, str(path), size, python=pythons.get(kind, sys.executable))


def ours(artifact: Path, metadata: dict[str, Any]) -> Engine:
    """This package's library, or its kernels for a graphics processor, with all that is loaded with it."""
    backend = registry.for_artifact(metadata)
    weights = (store.WEIGHTS,) if backend.stored_weights else ()
    loaded = (*backend.loaded_files(metadata), *weights, store.METADATA)
    size = sum((artifact / name).stat().st_size for name in loaded)
    return Engine("tern", "tern", str(artifact), size)


def onnxruntime_engines(
    artifact: Path, folder: Path, seven_bit_weights: bool = False
) -> tuple[list[Engine], list[tuple[str, str]]]:
    """Prepare onnxruntime's forms of an artifact's network.

    Args:
        artifact: Artifact with its ONNX file and samples.
        folder: Where to write the float32 and the int8 file.
        seven_bit_weights: See :func:`quantize`.

    Returns:
        The engines, and (name, reason) of those that could not be prepared.

    Raises:
        BenchError: onnxruntime is not installed, or the artifact has no ONNX file.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise BenchError("onnxruntime is not installed; install it with: pip install onnxruntime") from None
    source = artifact / store.MODEL
    if not source.is_file():
        raise BenchError(f"{artifact} has no {store.MODEL}, which onnxruntime runs; compare where the whole export is")
    engines = [replace(_engine("onnxruntime 2-bit file", source), two_bit=True)]
    try:
        model = onnxtools.float_model(read_model(source))
    except ImportError:
        reason = "needs the onnx package: pip install onnx"
        return engines, [("onnxruntime fp32", reason), ("onnxruntime int8", reason)]
    float_path, int8_path = folder / "float32.onnx", folder / "int8.onnx"
    float_path.write_bytes(model.SerializeToString())
    engines.insert(0, _engine("onnxruntime fp32", float_path))
    try:
        quantize(float_path, int8_path, artifact, seven_bit_weights)
    except Exception as error:  # a peer's tool that refuses a network is a row without numbers, not the end
        return engines, [("onnxruntime int8", str(error).strip().splitlines()[0])]
    engines.insert(1, _engine("onnxruntime int8", int8_path))
    return engines, []


def _engine(name: str, path: Path) -> Engine:
    return Engine(name, "onnxruntime", str(path), path.stat().st_size)


def overflows(machine: Mapping[str, Any]) -> bool:
    """Whether the 8-bit products of a machine's CPU overflow: x86 without VNNI (onnxruntime then wants 7-bit weights).

    Args:
        machine: From :func:`tvm_schedules.engines.system.machine`, here or on a board.
    """
    features = set(machine["features"] or ())
    return machine["architecture"] == "x86_64" and not {"avx512vnni", "avxvnni"} & features


def quantize(source: Path, output: Path, artifact: Path, seven_bit_weights: bool = False) -> None:
    """Static 8-bit quantization by onnxruntime's own tool, as its documentation recommends.

    QDQ, activations unsigned with MinMax ranges on the artifact's samples, weights signed and per channel, of 7 bits
    where products would overflow.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    inputs, _ = load_samples(artifact)
    names = [entry["name"] for entry in store.read_metadata(artifact, check_hashes=False)["inputs"]]

    class Reader(CalibrationDataReader):
        def __init__(self, runs: Sequence[Sequence[Any]]) -> None:
            self.runs: Iterator[Sequence[Any]] = iter(runs)

        def get_next(self) -> dict[str, Any] | None:
            run = next(self.runs, None)
            return None if run is None else dict(zip(names, (np.asarray(array) for array in run), strict=True))

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the tool recommends preprocessing for models that are not folded; ours are
    try:
        with np.errstate(invalid="ignore"):  # the tool divides the infinities of attention's masks
            quantize_static(
                str(source),
                str(output),
                Reader(inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=seven_bit_weights,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logger.setLevel(level)
