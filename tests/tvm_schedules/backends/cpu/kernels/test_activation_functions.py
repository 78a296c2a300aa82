"""Activation functions of epilogues by themselves, over all numbers, and what is known of a layer's sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm")

from tests.properties import compilations, more_data
from tests.tvm_schedules.nets import Net, Reference, Runner
from tvm_schedules import compat
from tvm_schedules.backends.cpu.kernels.common.activations import activated
from tvm_schedules.lowering.epilogue import ENDS, power_factors
from tvm_schedules.passes.activations import KINDS
from tvm_schedules.targets.registry import resolve

LANES = 8


def computed(kind: str, x: np.ndarray, exact: bool, factors: int) -> np.ndarray:
    """A function of all numbers, by a kernel that does nothing else."""

    def write(e: compat.Emitter, source: object, target: object) -> None:
        views = [e.view(pointer, x.size, "float32") for pointer in (source, target)]
        with e.jobs(x.size // LANES, parallel=False) as i:
            value = e.load(views[0], i * LANES, LANES)
            e.store(views[1], i * LANES, activated(e, kind, value, LANES, True, exact, factors), LANES)

    kernel = compat.kernel_function([("source", "float32"), ("target", "float32")], write)
    variable = compat.global_var("function")

    def body(e: compat.Emitter, source: object, target: object) -> None:
        compat.call_private(variable, kernel, [source.data, target.data], "serial")  # type: ignore[attr-defined]

    main = compat.main_function("main", [(name, x.shape, "float32") for name in ("source", "target")], [], body)
    built = compat.build_module({"0": (variable, kernel)}, main, resolve("host").tvm)
    out = compat.tensor(np.zeros_like(x))
    built["main"](compat.tensor(x), out)
    return np.asarray(out.numpy())


def reference(kind: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return KINDS[kind](x.astype(np.float64))


@pytest.mark.parametrize("kind", sorted(ENDS))
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("factors", [0, 1, 2])
def test_all_numbers(kind: str, exact: bool, factors: int) -> None:
    end = ENDS[kind] * max(1, factors)
    if power_factors(kind, end) != max(1, factors):
        assert factors == 2  # of a polynomial's power there is no half
        return
    x = np.concatenate([np.linspace(-end, end, 4000), np.linspace(-9, 9, 4000), [0, -0.0, 1e-30, end, -end]])
    if factors == 0:
        far = np.array([1e2, 1e4, 1e10, 3e38, np.inf])
        x = np.concatenate([x, far, -far[:4]])
    x = np.resize(x.astype(np.float32), -(-x.size // LANES) * LANES)
    have, want = computed(kind, x, exact, factors), reference(kind, x)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(have[~finite], want[~finite])
    have, want = have[finite], want[finite]
    assert np.all(np.abs(have - want) <= (1e-6 * np.abs(want) + 3e-6 if exact else 5e-5))


@pytest.mark.parametrize("kind", sorted({*ENDS} - {"sigmoid"}))
def test_no_number_stays_none(kind: str) -> None:
    x = np.full(LANES, np.nan, np.float32)
    assert np.isnan(computed(kind, x, True, 0)).all()


def test_what_is_cut_off() -> None:
    """Nothing where the power is a number; powers of polynomials grow too fast to be halved."""
    assert [power_factors("silu", reach) for reach in (0.0, 87.0, 87.1, 174.0, 174.1, np.inf)] == [1, 1, 2, 2, 0, 0]
    assert [power_factors("gelu", reach) for reach in (6.3, 6.4)] == [1, 0]
    assert [power_factors(kind, 1.0) for kind in ("tanh", None)] == [0, 0]


@compilations(15)
@given(
    reach=st.sampled_from([20.0, 86.9, 87.5, 173.0, 176.0, 900.0]),
    zero=st.integers(0, 255),
    kind=st.sampled_from(["Sigmoid", "silu"]),
    zeros=st.sampled_from([None, 0.5]),
    seed=st.integers(0, 5),
)
def test_the_largest_sums_of_a_layer(reach: float, zero: int, kind: str, zeros: float | None, seed: int) -> None:
    """Images that give every channel its largest and its smallest sum, which end where the estimate says."""
    shape, rng = (1, 4, 5, 7), np.random.default_rng(seed)
    net = Net(shape, seed=seed)
    values = rng.choice([-1, 0, 1], (6, 4, 3, 3)) if zeros else rng.integers(-127, 128, (6, 4, 3, 3))
    ends = [np.where(values > 0, high, low) - zero for low, high in ((0, 255), (255, 0))]
    largest = max(np.abs((values * end).reshape(6, -1).sum(1)).max() for end in ends)
    scale = np.full(6, reach / max(1, largest) / 0.05, np.float32)
    weight = net.ternary(values, scale) if zeros else net.int8(values.astype(np.int8), scale)
    y = net.op("Conv", net.quantize("input_0", 0.05, zero), weight, pads=[1] * 4)
    y = net.op("Sigmoid", y) if kind == "Sigmoid" else net.op("Mul", y, net.op("Sigmoid", y))
    step = 1 / 255 if kind == "Sigmoid" else reach / 255
    runner, exact = Runner(net.model(net.quantize(y, step, 0))), Reference(net.model(y))
    for channel, end in ((channel, end) for channel in range(6) for end in ends):
        x = rng.normal(size=shape).astype(np.float32)
        x[0, :, 1:4, 2:5] = end[channel] * np.float32(0.05)
        for (data,) in more_data([x]):
            (have,), (real,) = runner(data), exact(data)
            error = np.abs(have - np.clip(real, 0, 255 * step))
            assert np.all(error <= step / 2 + 1e-4 + 2e-6 * np.abs(real))
