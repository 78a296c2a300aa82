"""Trained ONNX files inside of installed packages, found where these are installed; none is part of this repository."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StoredFile:
    """An ONNX file of a package.

    Attributes:
        package: The package's name.
        path: Of the file in the package's folder.
        kind: What the network is for.
        shapes: Shapes of inputs that the file leaves open.
        constants: Values of inputs that are always the same, by name.
        names: How many different values integer inputs have.
    """

    package: str
    path: str
    kind: str
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    names: int = 2

    def lacks(self) -> str | None:
        """Why it is not here: the package is not installed, or does not have the file in this release."""
        folder = self._folder()
        if folder is None:
            return f"{self.package} is not installed"
        return None if (folder / self.path).is_file() else f"{self.package} has no {self.path} in this release"

    def locate(self) -> Path:
        """The file; :meth:`lacks` has said that it is there."""
        folder = self._folder()
        assert folder is not None
        return folder / self.path

    def load(self) -> Any:
        """The ``onnx.ModelProto``."""
        import onnx

        return with_weights(onnx.load(self.locate()))

    def _folder(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        return Path(places[0]) if places else None

    def inputs(self, runs: int = 4) -> dict[str, np.ndarray]:
        """Random inputs by name, ``runs`` of them along the first axis of each that has one."""
        import onnx
        from onnx import helper

        random = np.random.default_rng(0)
        model = onnx.load(self.locate())
        stored = {tensor.name for tensor in model.graph.initializer}
        found = {}
        for value in model.graph.input:
            if value.name in stored or value.name in self.constants:
                continue
            kind = value.type.tensor_type
            shape = self.shapes.get(value.name, tuple(dim.dim_value for dim in kind.shape.dim))
            shape = (runs * shape[0], *shape[1:]) if shape else ()
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind == "f":
                found[value.name] = random.standard_normal(shape).astype(dtype)
            else:
                found[value.name] = random.integers(0, self.names, shape).astype(dtype)
        return found


def with_weights(model: Any) -> Any:
    """A copy of a model whose weights, which are filled by ``ConstantOfShape`` in it, are random ones of usual size."""
    import onnx
    from onnx import numpy_helper

    random = np.random.default_rng(0)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, 4)  # before that, initializers had to be inputs too
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is None or len(shape) < 2:
            kept.append(node)
            continue
        fan = max(1, int(np.prod(shape[1:])))
        weight = (random.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def light(name: str) -> StoredFile:
    """A well-known network with constant weights, as ONNX' own tests have them."""
    return StoredFile("onnx", f"backend/test/data/light/light_{name}.onnx", "classification")


_STATE = (2, 1, 128)
_OCR = "rapidocr_onnxruntime", "models/ch_"

FILES = {
    "ppocr_detector": StoredFile(_OCR[0], f"{_OCR[1]}PP-OCRv4_det_infer.onnx", "detection", {"x": (1, 3, 160, 160)}),
    "ppocr_recognizer": StoredFile(_OCR[0], f"{_OCR[1]}PP-OCRv4_rec_infer.onnx", "text", {"x": (1, 3, 48, 160)}),
    "ppocr_angle": StoredFile(
        _OCR[0], f"{_OCR[1]}ppocr_mobile_v2.0_cls_infer.onnx", "classification", {"x": (1, 3, 48, 192)}
    ),
    "nudenet": StoredFile("nudenet", "320n.onnx", "detection", {"images": (1, 3, 320, 320)}),
    "silero_vad": StoredFile(
        "silero_vad", "data/silero_vad.onnx", "sound", {"input": (1, 576), "state": _STATE}, {"sr": 16000}
    ),
    "silero_vad_op15": StoredFile(
        "silero_vad", "data/silero_vad_16k_op15.onnx", "sound", {"input": (1, 576), "state": _STATE}, {"sr": 16000}
    ),
    "silero_vad_op18": StoredFile(
        "silero_vad", "data/silero_vad_op18_ifless.onnx", "sound", {"input": (1, 576), "state": _STATE}, {"sr": 16000}
    ),
    "silero_vad_half": StoredFile(
        "silero_vad", "data/silero_vad_half.onnx", "sound", {"input": (1, 576), "state": _STATE}
    ),
    "silero_vad_openvino": StoredFile("silero_vad", "data/silero_vad_openvino_16k.onnx", "sound"),
    "silero_vad_sequence": StoredFile("silero_vad", "data/silero_vad_16k_sequence.onnx", "sound", {"input": (4, 576)}),
    "silero_vad_v6": StoredFile("faster_whisper", "assets/silero_vad_v6.onnx", "sound", {"input": (4, 576)}),
    "ddddocr_detector": StoredFile("ddddocr", "common_det.onnx", "detection"),
    "ddddocr": StoredFile("ddddocr", "common.onnx", "text", {"input1": (1, 1, 64, 128)}),
    "ddddocr_old": StoredFile("ddddocr", "common_old.onnx", "text", {"input1": (1, 1, 64, 128)}),
    "magika": StoredFile("magika", "models/standard_v3_3/model.onnx", "text", {"bytes": (1, 2048)}, names=257),
    "basic_pitch": StoredFile(
        "basic_pitch", "saved_models/icassp_2022/nmp.onnx", "sound", {"serving_default_input_2:0": (1, 43844, 1)}
    ),
    **{
        f"light_{name}": light(name)
        for name in (
            "bvlc_alexnet",
            "densenet121",
            "inception_v1",
            "inception_v2",
            "resnet50",
            "shufflenet",
            "squeezenet",
            "zfnet512",
        )
    },
}
