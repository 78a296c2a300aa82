"""Engines of other projects, for :mod:`tvm_schedules.engines.worker` in a Python environment of theirs.

This file imports nothing of its package, which those environments do not have: the worker loads it by its path. An
engine is a pair of functions: ``prepare`` makes the engine's own file of an ONNX file, ``load`` makes that callable.
Engines of phones have no ``prepare``: their files are made by converters that their users know best.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[list[Any]], Any]

WANTED = {
    "openvino": ("openvino", "nncf"),
    "executorch": ("executorch", "torch", "torchao", "onnx"),
    "deepsparse": ("deepsparse",),
    "litert": ("ai_edge_litert",),
    "ncnn": ("ncnn",),
    "mnn": ("MNN",),
}
"""Modules that an environment must have for an engine."""


def _samples(path: str) -> list[np.ndarray]:
    """Inputs of an artifact's ``samples.npz``."""
    with np.load(path, allow_pickle=False) as file:
        return list(file["input0"])


# -- OpenVINO ----------------------------------------------------------------------------------------------------------
def prepare_openvino(source: str, output: str, samples: str) -> None:
    """NNCF's post-training int8 quantization with its settings for speed."""
    import nncf
    import openvino

    model = openvino.convert_model(source)
    data = nncf.Dataset(_samples(samples))
    made = nncf.quantize(model, data, preset=nncf.QuantizationPreset.PERFORMANCE, subset_size=len(_samples(samples)))
    openvino.save_model(made, output, compress_to_fp16=False)


def load_openvino(path: str, threads: int) -> Run:
    """One stream with the latency hint; what is not 8-bit stays float32."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # the worker is pinned already
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    source, output = request.get_input_tensor().data, request.get_output_tensor()

    def run(inputs: list[Any]) -> Any:
        np.copyto(source, inputs[0])
        request.infer()
        return output.data

    return run


# -- ExecuTorch --------------------------------------------------------------------------------------------------------
def torch_module(source: str) -> Any:
    """The float ONNX file as a torch module: what ``torch.export`` wants.

    Raises:
        ValueError: An operator that the suite's networks do not have.
    """
    import onnx
    import torch
    from onnx import helper, numpy_helper
    from torch.nn import functional

    f: Any = functional

    model = onnx.load(source)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[tuple[str, str, list[str], dict[str, Any]]] = []
            for node in model.graph.node:
                attrs = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
                self.steps.append((node.op_type, node.output[0], list(node.input), attrs))
                for name in node.input:
                    if name in constants and node.op_type != "Clip":
                        value = torch.from_numpy(constants[name].copy())
                        self.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))

        def forward(self, x: Any) -> Any:
            values = {model.graph.input[0].name: x}
            for op, output, inputs, attrs in self.steps:
                args = [values[n] if n in values else getattr(self, n) for n in inputs[: 1 if op == "Clip" else None]]
                if op == "Conv":
                    before = attrs.get("pads", [0] * 4)[:2]
                    values[output] = f.conv2d(*args, stride=attrs["strides"], padding=before, groups=attrs["group"])
                elif op == "Gemm":
                    values[output] = f.linear(*args)
                elif op == "Relu":
                    values[output] = f.relu(*args)
                elif op == "Clip":
                    low, high = (constants[name].item() for name in inputs[1:])
                    values[output] = f.hardtanh(*args, low, high)
                elif op == "Add":
                    values[output] = args[0] + args[1]
                elif op == "MaxPool":
                    values[output] = f.max_pool2d(*args, attrs["kernel_shape"], attrs["strides"], attrs["pads"][:2])
                elif op == "GlobalAveragePool":
                    values[output] = f.adaptive_avg_pool2d(*args, 1)
                elif op == "Flatten":
                    values[output] = torch.flatten(args[0], 1)
                else:
                    raise ValueError(f"no form of the operator {op} for torch")
            return values[model.graph.output[0].name]

    return Network().eval()


def prepare_executorch(source: str, output: str, samples: str) -> None:
    """Post-training int8 with XNNPACK's quantizer, weights per channel; everything in XNNPACK's delegate."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    inputs = [torch.from_numpy(array) for array in _samples(samples)]
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(torch_module(source), (inputs[0],)).module(), quantizer)
    for array in inputs:
        prepared(array)
    program = torch.export.export(convert_pt2e(prepared), (inputs[0],))
    made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with open(output, "wb") as file:
        file.write(made.buffer)


def load_executorch(path: str, threads: int) -> Run:
    """The runtime's Python binding, with its thread pool set."""
    import torch
    from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool

    torch.set_num_threads(1)
    _unsafe_reset_threadpool(threads)
    model = _load_for_executorch(path)
    tensors: dict[int, Any] = {}

    def run(inputs: list[Any]) -> Any:
        x = inputs[0]
        if id(x) not in tensors:
            tensors[id(x)] = torch.from_numpy(x)
        return model.forward((tensors[id(x)],))[0].numpy()

    return run


# -- DeepSparse --------------------------------------------------------------------------------------------------------
def prepare_deepsparse(source: str, output: str, samples: str) -> None:
    """It reads ONNX files of opset 13, such as the suite's."""
    import shutil

    shutil.copyfile(source, output)


def load_deepsparse(path: str, threads: int) -> Run:
    """The engine, with its reports to its makers switched off."""
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    engine = deepsparse.Engine(path, batch_size=1, num_cores=threads)
    return lambda inputs: engine.run(inputs)


# -- Engines of phones -------------------------------------------------------------------------------------------------
def fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array in the shape that another engine has for it: with channels last or first, or other axes of length 1.

    Raises:
        ValueError: They have different numbers of elements: it is another network.
    """
    if array.shape == shape:
        return array
    for order in ((0, 2, 3, 1), (0, 3, 1, 2)):
        if array.ndim == 4 and tuple(array.shape[axis] for axis in order) == shape:
            return array.transpose(order)
    if array.size != int(np.prod(shape)):
        raise ValueError(f"the file has a tensor of shape {list(shape)} where the artifact has {list(array.shape)}")
    return array.reshape(shape)


def _once(make: Callable[[int, np.ndarray], Any]) -> Callable[[int, np.ndarray], Any]:
    """The engine's form of an input, made once for an array: what is measured is the network."""
    ready: dict[tuple[int, int], tuple[np.ndarray, Any]] = {}

    def get(index: int, array: np.ndarray) -> Any:
        if (index, id(array)) not in ready:
            ready[index, id(array)] = array, make(index, array)
        return ready[index, id(array)][1]

    return get


def load_litert(path: str, threads: int) -> Run:
    """A ``.tflite`` file, with XNNPACK; inputs and outputs of 8 bits are rounded as the file says."""
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=path, num_threads=threads)
    model.allocate_tensors()
    inputs, outputs = model.get_input_details(), model.get_output_details()

    def make(index: int, array: np.ndarray) -> np.ndarray:
        place = inputs[index]
        (scale, zero), kind = place["quantization"], np.dtype(place["dtype"])
        value = fitted(array, tuple(int(size) for size in place["shape"]))
        if scale and kind.kind in "iu":
            limits = np.iinfo(kind)
            value = np.clip(np.rint(value / scale) + zero, limits.min, limits.max)
        return np.ascontiguousarray(value, kind)

    form = _once(make)

    def result(place: Any) -> np.ndarray:
        value = model.get_tensor(place["index"])
        scale, zero = place["quantization"]
        return (value.astype(np.float32) - zero) * scale if scale and value.dtype.kind in "iu" else value

    def run(arrays: list[Any]) -> Any:
        for index, array in enumerate(arrays):
            model.set_tensor(inputs[index]["index"], form(index, array))
        model.invoke()
        return [result(place) for place in outputs]

    return run


def load_ncnn(path: str, threads: int) -> Run:
    """A ``.param`` file with the ``.bin`` file beside it; images have no axis for samples there."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    weights = path.removesuffix(".param") + ".bin"
    for load, file in ((net.load_param, path), (net.load_model, weights)):
        if not os.path.isfile(file) or load(file):
            raise ValueError(f"ncnn cannot read {file}")
    inputs, outputs = net.input_names(), net.output_names()
    form = _once(lambda _, array: ncnn.Mat(np.ascontiguousarray(array[0], np.float32)))

    def run(arrays: list[Any]) -> Any:
        extractor = net.create_extractor()
        for index, array in enumerate(arrays):
            extractor.input(inputs[index], form(index, array))
        return [np.array(extractor.extract(name)[1])[None] for name in outputs]

    return run


def load_mnn(path: str, threads: int) -> Run:
    """An ``.mnn`` file, on the CPU."""
    import MNN

    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "normal"},))
    model = MNN.nn.load_module_from_file(path, [], [], runtime_manager=manager)
    form = _once(lambda _, array: MNN.expr.const(array, list(array.shape), MNN.expr.NCHW))

    def run(arrays: list[Any]) -> Any:
        found = model.onForward([form(index, array) for index, array in enumerate(arrays)])
        return [np.array(MNN.expr.convert(one, MNN.expr.NCHW).read()) for one in found]

    return run


PREPARE = {"openvino": prepare_openvino, "executorch": prepare_executorch, "deepsparse": prepare_deepsparse}
LOAD = {
    "openvino": load_openvino,
    "executorch": load_executorch,
    "deepsparse": load_deepsparse,
    "litert": load_litert,
    "ncnn": load_ncnn,
    "mnn": load_mnn,
}


def load(kind: str, path: str, threads: int) -> Run:
    """An engine with its file, as a function of the inputs in order.

    Raises:
        ImportError: A module of the engine is missing, with how to get it.
        ValueError: The file is not the engine's.
    """
    try:
        return LOAD[kind](path, threads)
    except ModuleNotFoundError as error:
        name = WANTED[kind][0].replace("_", "-")
        way = f"pip install {name}, or --peer-python {kind}=PATH/bin/python for an environment that has it"
        raise ImportError(f"{error}; {way}") from error


def check(kind: str) -> dict[str, str]:
    """Versions of the packages that an engine needs here.

    Raises:
        ImportError: A module of the engine is missing.
    """
    from importlib import metadata
    from importlib.util import find_spec

    missing = [name for name in WANTED[kind] if find_spec(name) is None]
    if missing:
        raise ImportError(f"not installed: {', '.join(missing)}")
    return {name: metadata.version(name) for name in WANTED[kind]}
