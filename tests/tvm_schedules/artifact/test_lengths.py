"""One artifact for several lengths of sequences: which runs, what padding does, and what is refused."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tvm_schedules.nets import run_onnx
from tvm_schedules import build, load
from tvm_schedules.artifact import store
from tvm_schedules.errors import ArtifactError, InputError, ModelError
from tvm_schedules.runtime.model import Model

WEIGHT = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def network(length: int | str, masked: bool = True) -> onnx.ModelProto:
    """Tokens through a layer, every token behind it, and the sum of those that the mask keeps."""

    def info(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["tokens"], name="layer"),
        helper.make_node("Mul", ["tokens", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept" if masked else "tokens", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["mask", "one"], ["seen"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lengths",
        [info("x", [1, length, 4]), info("mask", [1, length, 1])],
        [info("tokens", [1, length, 6]), info("sum", [1, 6]), info("seen", [1, length, 1])],
        [
            numpy_helper.from_array(WEIGHT, "w"),
            numpy_helper.from_array(np.int64([1]), "axes"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def shapes(length: int) -> dict[str, list[int]]:
    return {"x": [1, length, 4], "mask": [1, length, 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lengths") / "net"
    build(network("n"), place, input_shapes=shapes(12), shorter=[shapes(3), network(7)], batch_sizes=[1, 2])
    return place


@pytest.fixture
def model(folder: Path) -> Model:
    return load(folder)


def inputs(length: int, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(length)
    return rng.normal(size=(count, length, 4)).astype(np.float32), np.ones((count, length, 1), np.float32)


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 12])
def test_any_length_computes_what_its_own_network_does(model: Model, length: int) -> None:
    assert model.lengths == (3, 7, 12)
    given = inputs(length)
    for made, wanted in zip(model(*given), run_onnx(network(length), *given), strict=True):
        assert made.shape == wanted.shape
        np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_the_shortest_that_is_long_enough_runs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model._lengths is not None
    ran: list[int] = []
    models = {**model._lengths.shorter, 12: model}
    for length, one in models.items():
        usual = one._call
        monkeypatch.setattr(one, "_call", lambda *a, length=length, usual=usual: ran.append(length) or usual(*a))
    for length in (1, 3, 4, 7, 8, 12):
        model(*inputs(length))
    assert ran == [3, 3, 7, 7, 12, 12]


def test_many_samples_of_a_length(model: Model) -> None:
    x, mask = inputs(5, 3)
    tokens, _, _ = model(mask=mask, x=x)
    np.testing.assert_allclose(tokens, x @ WEIGHT, atol=1e-5)
    assert model._lengths is not None
    assert model._lengths.shorter[7].batch_sizes == model.batch_sizes == (1, 2)


def test_copies_pickles_and_threads(model: Model) -> None:
    given = inputs(6)
    wanted = model(*given)
    for other in (copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert other.lengths == (3, 7, 12)
        for made, want in zip(other(*given), wanted, strict=True):
            np.testing.assert_array_equal(made, want)
    model.threads = 1
    assert model._lengths is not None
    assert all(one.threads == 1 for one in model._lengths.shorter.values())


def test_calls_that_do_not_fit(model: Model) -> None:
    with pytest.raises(InputError, match="sequences must have 1 to 12 steps, got 13"):
        model(*inputs(13))
    with pytest.raises(InputError, match="sequences of one length, got x: 4, mask: 5"):
        model(inputs(4)[0], inputs(5)[1])
    with pytest.raises(InputError, match="'mask' is missing"):
        model(inputs(4)[0])
    with pytest.raises(InputError, match="given twice"):
        model(*inputs(4), x=inputs(4)[0])
    with pytest.raises(InputError, match="must have dtype float32"):
        model(inputs(4)[0].astype(np.float64), inputs(4)[1])


def test_a_damaged_part_is_found(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "net"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "length-3")
    assert load(other).lengths == (7, 12)  # left out on a device
    shutil.rmtree(other / "length-7")
    shutil.copytree(folder / "length-3", other / "length-7")
    with pytest.raises(ArtifactError, match="length-7 is damaged"):
        load(other)


@pytest.mark.parametrize(
    ("length", "why"),
    [
        ({"inputs": {"x": 7}}, "axis 7 of 'x' counts 12 steps"),
        ({"outputs": {"tokens": 2}}, "axis 2 of 'tokens' counts 12 steps"),
        ({"inputs": {}}, "no input that has one"),
    ],
)
def test_axes_that_are_none_are_found(folder: Path, tmp_path: Path, length: dict[str, object], why: str) -> None:
    other = tmp_path / "net"
    shutil.copytree(folder, other)
    metadata = store.read_metadata(other)
    store.write_metadata(other, {**metadata, "length": {**metadata["length"], **length}})
    with pytest.raises(ArtifactError, match=why):
        load(other)


def test_padding_that_changes_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="output 'sum' of a sequence of 3 steps changes when it is"):
        build(network(6, masked=False), tmp_path / "a", shorter=[network(3, masked=False)], pad={"x": 1.0})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("other", "pad", "why"),
    [
        (network(8), {}, "a network for shorter sequences has length 8, the artifact's own 6"),
        (network(6), {}, "differ in none"),
        (network(3), {"ids": 0.0}, "pad names 'ids'; inputs with the length are x, mask"),
    ],
)
def test_networks_that_are_no_lengths_of_one(
    tmp_path: Path, other: onnx.ModelProto, pad: dict[str, float], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        build(network(6), tmp_path / "a", shorter=[other], pad=pad)
