"""What the suite measures, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_schedules.bench import networks

ZEROS = (50, 80, 90)
"""Shares of zeros of the ternary layers, in percent."""

FLOAT_ZEROS = 90
"""Share at which 32-bit float activations are measured too, against the sparse float engine."""

DENSE_ZEROS = 80
"""Share in the files of engines that gain nothing from zeros."""


@dataclass(frozen=True)
class Case:
    """One network.

    Args:
        name: Key of the tables in :mod:`~tvm_schedules.bench.networks`, and ``-shared4`` for ``shared``.
        group: ``network``, ``linear`` or ``layer``; layers are not compared with peers.
        targets: What is to be reached: best peer's time by ours, by share of zeros.
        floats: Whether 32-bit float activations are measured as well.
        shared: So many neighboring output channels have their zeros at the same places, as trained blocks do.
    """

    name: str
    group: str
    targets: dict[int, float]
    floats: bool = False
    shared: int = 1

    @property
    def network(self) -> str:
        """Key of the tables in :mod:`~tvm_schedules.bench.networks`."""
        return self.name.removesuffix(f"-shared{self.shared}")


CASES = {
    case.name: case
    for case in (
        Case("resnet20", "network", {50: 1.0, 80: 1.8, 90: 2.0}, True),
        Case("resnet56", "network", {50: 1.0, 80: 1.8, 90: 2.0}, True),
        Case("resnet18", "network", {50: 1.0, 80: 2.0, 90: 3.0}, True),
        Case("resnet18-shared4", "network", {50: 1.5, 80: 3.0, 90: 4.2}, shared=4),
        Case("mobilenetv2", "network", {50: 1.0, 80: 1.6, 90: 2.0}, True),
        Case("mlp", "network", {50: 1.2, 80: 1.5, 90: 2.0}),
        *(Case(name, "linear", {}) for name in networks.LINEAR),
        *(Case(name, "layer", {}) for name in networks.LAYERS),
    )
}

I2S = {
    "linear1024x1024/1": 1.61,
    "linear1024x1024/2": 1.79,
    "linear4096x4096/1": 1.38,
    "linear4096x4096/2": 1.36,
    "linear11008x4096/1": 1.42,
    "linear11008x4096/2": 1.37,
}
"""How much faster bitnet.cpp's I2_S kernel is than onnxruntime's 2-bit MatMulNBits at accuracy level 4, by layer and
threads: best single runs on an AMD Zen 4 with AVX-512 VNNI, onnxruntime 1.31. bitnet.cpp has no Python package to run
here, so its time is that of MatMulNBits in the same run divided by this."""

I2S_TARGET = 1.5
"""What is to be reached against I2_S."""

NBITS = "onnxruntime MatMulNBits 2-bit"


def versus_i2s(key: str, ratio: float) -> float | None:
    """The ratio to I2_S for a ratio to MatMulNBits, None for other cases.

    >>> versus_i2s("linear1024x1024/1", 3.22)
    2.0
    """
    return ratio / I2S[key] if key in I2S else None
