"""CMSIS-NN's int8 kernels on the layers of a network, compiled from a checkout of it and counted as ours are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.mcu import count, networks
from benchmarks.mcu.cores import ARM, CORES
from examples.models import BasicBlock

__all__ = ["Layer", "cores", "counted", "layers_of"]

SOURCES = (
    "ConvolutionFunctions/*_s8*.c",
    "FullyConnectedFunctions/arm_fully_connected_s8.c",
    "PoolingFunctions/arm_avgpool*_s8.c",
    "BasicMathFunctions/arm_elementwise_add_s8.c",
    "TransposeFunctions/arm_transpose_s8.c",
    "NNSupportFunctions/*_s8*.c",
    "NNSupportFunctions/arm_q7_to_q15_with_offset.c",
)
"""Of CMSIS-NN's ``Source``."""

OPTIONS = ("-Ofast",)
"""What its own build takes."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Layer:
    """A layer, in the order of the fields of ``struct layer``.

    Args:
        kind: ``CONVOLUTION``, ``DEPTHWISE``, ``LINEAR``, ``AVERAGE`` or ``ADD``.
        in_h: Height of the input.
        in_w: Its width.
        in_c: Its channels.
        out_h: Height of the output.
        out_w: Its width.
        out_c: Its channels.
        kernel_h: Height of the window.
        kernel_w: Its width.
        stride_h: Steps down.
        stride_w: Steps to the right.
        pad_h: Padding above.
        pad_w: Padding to the left.
    """

    kind: str
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_h: int = 0
    pad_w: int = 0


def cores(names: Sequence[str]) -> list[str]:
    """Those that CMSIS-NN is for."""
    return [name for name in names if CORES[name].tools is ARM]


def layers_of(what: str) -> list[Layer]:
    """The layers of a network or of a single one, in the order in which they run.

    Args:
        what: Of :data:`~benchmarks.mcu.networks.NETWORKS` or :data:`~benchmarks.mcu.networks.LAYERS`.
    """
    if what in networks.LAYERS:
        one = networks.LAYERS[what]
        if not one.kernel:
            return [Layer("LINEAR", 1, 1, one.shape[1], 1, 1, one.outputs)]
        (_, channels, height, width), pad = one.shape, one.kernel // 2
        sizes = (height, width, channels, height, width, one.outputs)
        return [Layer("CONVOLUTION", *sizes, one.kernel, one.kernel, 1, 1, pad, pad)]
    make, shape = networks.NETWORKS[what]
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        made = _layer(module, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
        found.extend([made] if made else [])

    model = make().eval()
    for module in model.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    return found


def _layer(module: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> Layer | None:
    """What a module is for CMSIS-NN; None for what is part of others, such as normalization and ReLU."""
    if isinstance(module, nn.Linear):
        return Layer("LINEAR", 1, 1, before[0], 1, 1, after[0])
    if len(before) < 3:
        return None
    channels, height, width = before
    sizes: list[int] = [height, width, channels, *(after[1:] if len(after) > 1 else (1, 1)), after[0]]
    if isinstance(module, nn.Conv2d):
        kind = "DEPTHWISE" if module.groups > 1 else "CONVOLUTION"
        window = [int(number) for number in (*module.kernel_size, *module.stride, *module.padding)]
        return Layer(kind, *[*sizes, *window])
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return Layer("AVERAGE", *[*sizes, height, width])
    return Layer("ADD", *sizes) if isinstance(module, BasicBlock) else None


def header(layers: Sequence[Layer]) -> str:
    """``layers.h``."""
    names = [field.name for field in fields(Layer)]
    activations = [prod(size) for one in layers for size in (astuple(one)[1:4], astuple(one)[4:7])]
    fans = {"CONVOLUTION": lambda one: one.in_c, "LINEAR": lambda one: one.in_c, "DEPTHWISE": lambda one: 1}
    weights = [fans[o.kind](o) * o.out_c * o.kernel_h * o.kernel_w for o in layers if o.kind in fans]
    rows = ",\n    ".join("{" + ", ".join(map(str, astuple(one))) + "}" for one in layers)
    return (
        f"enum {{ LAYERS = {len(layers)}, MOST_ACTIVATIONS = {max(activations)}, MOST_WEIGHTS = {max(weights)},\n"
        f"    MOST_OUTPUTS = {max(one.out_c for one in layers)} }};\n"
        "enum { CONVOLUTION, DEPTHWISE, LINEAR, AVERAGE, ADD };\n"
        f"struct layer {{ int {', '.join(names)}; }};\nstatic const struct layer layers[LAYERS] = {{\n    {rows}\n}};\n"
    )


def kernels(core: str, source: Path, folder: Path) -> list[Path]:
    """CMSIS-NN's kernels, compiled.

    Args:
        core: Of :func:`cores`.
        source: CMSIS-NN's folder.
        folder: Where object files are written.

    Raises:
        McuError: They are not there, or do not compile.
    """
    files = [path for pattern in SOURCES for path in sorted((source / "Source").glob(pattern))]
    if not files:
        raise count.McuError(f"{source} has no Source/{SOURCES[0]}; it must be a checkout of CMSIS-NN")
    options = (*OPTIONS, "-ffunction-sections", f"-I{source / 'Include'}")
    return [count.compiled(path, folder / f"{path.stem}.o", CORES[core], options) for path in files]


def instructions(what: str, core: str, source: Path, objects: Sequence[Path]) -> int:
    """Instructions of one run.

    Args:
        what: See :func:`layers_of`.
        core: Of :func:`cores`.
        source: CMSIS-NN's folder.
        objects: What :func:`kernels` made.

    Raises:
        McuError: It does not compile or run.
    """
    with tempfile.TemporaryDirectory(prefix="tern-cmsis-") as place:
        folder = Path(place)
        (folder / "layers.h").write_text(header(layers_of(what)))
        (folder / "model.c").write_text((HERE / "cmsis_nn.c").read_text())
        (folder / "model.h").write_text(
            "#include <stdint.h>\n#define MODEL_ARENA_BYTES 0\n#define PREPARE model_prepare\n"
            "int model_run(const int8_t *input, int8_t *output);\nvoid model_prepare(void);\n"
        )
        numbers = "".join(f"static const int8_t model_sample_{side}[1] = {{ 3 }};\n" for side in ("input", "output"))
        (folder / "model_sample.h").write_text(numbers)
        return count.count(folder, core, (*OPTIONS, f"-I{source / 'Include'}"), objects).instructions


def counted(names: Sequence[str], on: Sequence[str], source: Path) -> dict[str, dict[str, Any]]:
    """Thousands of instructions by network and core, as ``cmsis_nn.json`` has them."""
    found: dict[str, dict[str, Any]] = {what: {} for what in names}
    for core in cores(on):
        with tempfile.TemporaryDirectory(prefix="tern-cmsis-") as place:
            objects = kernels(core, source, Path(place))
            for what in names:
                found[what][core] = round(instructions(what, core, source, objects) / 1000)
    return found
