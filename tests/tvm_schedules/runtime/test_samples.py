"""Any number of samples, whatever number a network was compiled for."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_schedules
from tests.tvm_schedules import fake
from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.nets import run_onnx
from tvm_schedules.errors import ArtifactError, DeviceError, InputError, ModelError
from tvm_schedules.runtime import samples as batches
from tvm_schedules.verify import batch_axis as batch
from tvm_schedules.verify.reference import reference_outputs
from tvm_schedules.verify.samples import random_samples

Node = tuple[str, list[str], str, dict[str, Any]]


def network(
    nodes: list[Node], inputs: dict[str, list[int]], outputs: dict[str, list[int]], **constants: np.ndarray
) -> onnx.ModelProto:
    made = [helper.make_node(op, given, [name], **attributes) for op, given, name, attributes in nodes]
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(made, "net", *sides, weights), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def counted(model: onnx.ModelProto) -> frozenset[str]:
    runs = random_samples(model, 3)
    return batch.counting(model, runs, reference_outputs(model, runs))


W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
X: dict[str, list[int]] = {"x": [1, 4]}
Y: dict[str, list[int]] = {"y": [1, 4]}
MATMUL: Node = ("MatMul", ["x", "w"], "h", {})


@pytest.mark.parametrize("size", [1, 3])
def test_rows_that_have_nothing_to_do_with_each_other(size: int) -> None:
    rows = {"x": [size, 4]}
    assert counted(network([("MatMul", ["x", "w"], "y", {})], rows, {"y": [size, 4]}, w=W)) == {"x"}
    flat = [("Reshape", ["x", "s"], "h", {}), ("MatMul", ["h", "w"], "y", {})]
    shape = np.array([size, -1])
    assert counted(network(flat, {"x": [size, 2, 2]}, {"y": [size, 4]}, w=W, s=shape)) == {"x"}
    assert counted(network([("Mul", ["x", "a"], "y", {})], {**rows, "a": [size, 4]}, {"y": [size, 4]})) == {"x", "a"}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "mixing",
    [
        ("CumSum", ["h", "axis"], "y", {}),  # a row knows those before it
        ("CumSum", ["h", "axis"], "y", {"reverse": 1}),  # or after it
        ("Softmax", ["h"], "y", {"axis": 0}),
    ],
)
def test_an_axis_along_which_values_are_mixed(mixing: Node, size: int) -> None:
    shapes = {"x": [size, 4]}, {"y": [size, 4]}
    assert counted(network([MATMUL, mixing], *shapes, w=W, axis=np.int64(0))) == set()


def test_ranges_that_are_taken_from_all_samples() -> None:
    """Quantization at run time: a sample's steps depend on the others'."""
    model = network([("Identity", ["x"], "y", {})], X, Y)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    assert counted(model) == set()


def test_outputs_that_do_not_count() -> None:
    assert counted(network([("ReduceMean", ["x"], "y", {"keepdims": 0})], X, {"y": []})) == set()
    picture = network([("Flatten", ["x"], "y", {"axis": 0})], {"x": [3, 4]}, {"y": [1, 12]})
    assert counted(picture) == set()
    two = network([MATMUL, ("ReduceSum", ["h"], "y", {"keepdims": 0})], X, {"h": [1, 4], "y": []}, w=W)
    assert counted(two) == set()


def test_inputs_beside_the_samples() -> None:
    factor = network([("Mul", ["x", "t"], "y", {})], {**X, "t": []}, Y)
    assert counted(factor) == {"x"}
    table = network([("MatMul", ["x", "t"], "y", {})], {**X, "t": [4, 4]}, Y)
    assert counted(table) == {"x"}
    column = network([MATMUL, ("MatMul", ["h", "t"], "y", {})], {**X, "t": [4, 1]}, {"y": [1, 1]}, w=W)
    assert counted(column) == {"x"}
    one = network([("Conv", ["x", "t"], "y", {})], {"x": [1, 1, 3], "t": [1, 1, 2]}, {"y": [1, 1, 2]})
    assert counted(one) == {"x"}


def test_what_a_file_says_counts() -> None:
    """Shapes inside of this network are fixed ones, so that it cannot be tried."""
    nodes: list[Node] = [("Reshape", ["x", "s"], "h", {}), ("Reshape", ["h", "r"], "y", {})]
    fixed = network(nodes, X, Y, s=np.array([4]), r=np.array([1, 4]))
    assert counted(fixed) == set()
    for text, expected in (("x", {"x"}), ("", set()), ("y\nz", set())):
        helper.set_model_props(fixed, {batch.PROPERTY: text})
        assert counted(fixed) == expected
    mean = network([("ReduceMean", ["x"], "y", {"keepdims": 0})], X, {"y": []})
    helper.set_model_props(mean, {batch.PROPERTY: "x"})  # it cannot be
    assert counted(mean) == set()


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["host", "c", "opencl"])
def test_any_number_of_samples(target: str, tmp_path: Path) -> None:
    network = conv_net(size=6, batch=3)
    artifact = tvm_schedules.build(network, tmp_path / "out", target)
    try:
        model = artifact.load(threads=2)
    except DeviceError as error:
        pytest.skip(str(error))
    assert [entry["batch"] for entry in (*model.inputs, *model.outputs)] == [True, True]
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 16)).astype(np.float32).transpose(0, 3, 1, 2)
    expected = np.concatenate([run_onnx(network, np.ascontiguousarray(images[i : i + 3]))[0] for i in (0, 3, 5)])
    expected = np.delete(expected, 6, axis=0)  # of image 5, which two runs have
    for count in (0, 1, 2, 3, 6, 8):
        result = model(images[:count])
        assert result.shape == (count, 10)
        assert np.abs(result - expected[:count]).max(initial=0) <= 0.02 * np.abs(expected).max()
    first = model(images)
    kept = first.copy()
    model(-images)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(model(x=images[2:]), np.concatenate([model(images[2:5]), model(images[5:])]))


@pytest.fixture
def model(fake_compiler: Any, tmp_path: Path) -> tvm_schedules.Model:
    return tvm_schedules.build(fake.model(), tmp_path / "out").load(threads=3)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, fake.K)).astype(np.float32)


def test_samples_run_beside_each_other(model: tvm_schedules.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WORTH", -1.0)
    seen: list[int] = []
    function = model._function

    def watched(*arguments: Any) -> None:
        seen.append(threading.get_ident())
        function(*arguments)
        time.sleep(0.005)

    model._function = watched
    for count in (2, 3, 4, 40):
        seen.clear()
        x = rows(count)
        np.testing.assert_allclose(model(x), fake.reference(x, fake.model()), rtol=1e-5, atol=1e-6)
        assert len(seen) == count
        assert seen[0] == threading.get_ident()  # the first one says how long they take
        assert len(set(seen)) == 1 or count > 3
    assert len(set(seen)) > 1
    assert len(model._memories) == 3
    model.threads = 1
    seen.clear()
    model(rows(40))
    assert set(seen) == {threading.get_ident()}


def test_nobody_waits_for_a_late_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    late = []
    monkeypatch.setattr(batches._thread, "start_new_thread", lambda work, number: late.append((work, number)))
    ran: list[tuple[int, int]] = []
    batches._beside(iter(batches.pieces(6, 1)), 3, lambda number, part: ran.append((number, part.start)))
    assert ran == [(0, start) for start in range(6)]
    for work, number in late:
        work(*number)  # there is nothing left, and the memory may belong to another call
    assert len(late) == 2
    assert len(ran) == 6


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("main", [True, False])
def test_what_goes_wrong_in_a_thread(
    error: BaseException, main: bool, model: tvm_schedules.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "WORTH", -1.0)
    function, calls = model._function, []
    failed, inside = threading.Event(), [0]

    def fails(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 1:  # the first one runs alone
            if (threading.current_thread() is threading.main_thread()) is main:
                failed.set()
                raise error
            inside[0] += 1
            assert failed.wait(10)
            time.sleep(0.01)
            inside[0] -= 1
        function(*arguments)

    model._function = fails
    with pytest.raises(type(error)):
        model(rows(400))
    assert inside[0] == 0  # nobody uses the memory any more
    assert len(calls) < 10  # the others stop as well
    model._function = function
    x = rows(7)
    np.testing.assert_allclose(model(x), fake.reference(x, fake.model()), rtol=1e-5, atol=1e-6)


def test_wrong_numbers_of_samples(model: tvm_schedules.Model) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "x", "shape": [2, 4], "dtype": "float32", "batch": True},
        {"name": "m", "shape": [2], "dtype": "float32", "batch": True},
        {"name": "t", "shape": [2, 3], "dtype": "float32"},
    ]

    def given(x: int, m: int, t: int) -> tuple[np.ndarray, ...]:
        return np.ones((x, 4), np.float32), np.ones(m, np.float32), np.ones((t, 3), np.float32)

    arrays, count = batches.arguments(entries, given(2, 2, 2), {})
    assert (len(arrays), count) == (3, None)
    assert batches.arguments(entries, given(5, 5, 2), {})[1] == 5
    with pytest.raises(InputError, match="the same number of samples along their first axes, got x: 5, m: 2"):
        batches.arguments(entries, given(5, 2, 2), {})
    with pytest.raises(
        InputError, match=r"'t' must have shape \[2, 3\] \(its first axis is not known to count samples\)"
    ):
        batches.arguments(entries, given(4, 4, 4), {})
    with pytest.raises(InputError, match=r"\[1, 8\], or any number of samples along the first axis, got \[2, 9\]"):
        model(np.zeros((2, 9), np.float32))
    with pytest.raises(InputError, match=r"or any number of samples along the first axis, got \[8\]"):
        model(np.zeros(8, np.float32))


# -- several batch sizes -----------------------------------------------------------------------------------------------


@pytest.fixture
def sizes(fake_compiler: Any, tmp_path: Path) -> tvm_schedules.Model:
    """One that was compiled for 2, 4 and 16 samples."""
    return tvm_schedules.build(fake.model(2), tmp_path / "out", batch_sizes=(16, 2, 4)).load(threads=1)


def watch(model: tvm_schedules.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes a list of the batch sizes that run."""
    ran: list[int] = []
    for size, one in {2: model, **model._others}.items():

        def watched(*arguments: Any, function: Any = one._function, size: int = size) -> None:
            ran.append(size)
            function(*arguments)

        monkeypatch.setattr(one, "_function", watched)
    return ran


def test_the_largest_batch_that_fits(sizes: tvm_schedules.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes.batch_sizes == (2, 4, 16)
    assert sorted(sizes.metadata["batches"]) == ["batch-16", "batch-4"]
    ran = watch(sizes, monkeypatch)
    for count, expected in (
        (0, []),
        (1, [2]),
        (2, [2]),
        (4, [4]),
        (16, [16]),
        (23, [16, 4, 2, 2]),
        (40, [16, 16, 4, 4]),
    ):
        ran.clear()
        x = rows(count)
        np.testing.assert_allclose(sizes(x), fake.reference(x, fake.model()), rtol=1e-5, atol=1e-6)
        assert ran == expected
    sizes.threads = 3
    other = copy.copy(sizes)
    assert {one.threads for one in (other, *other._others.values())} == {3}
    np.testing.assert_array_equal(other(rows(23)), sizes(rows(23)))


def test_batch_sizes_that_are_missing_or_damaged(sizes: tvm_schedules.Model, tmp_path: Path) -> None:
    place = tmp_path / "out"
    x = rows(23)
    (place / "mine").write_text("kept")
    shutil.copytree(place, tmp_path / "other")
    shutil.rmtree(place / "batch-16")  # a device has no room for it
    found = tvm_schedules.load(place)
    assert found.batch_sizes == (2, 4)
    np.testing.assert_allclose(found(x), sizes(x), rtol=1e-6)
    tvm_schedules.build(fake.model(2, seed=1), tmp_path / "new", batch_sizes=[16])
    shutil.copytree(tmp_path / "new" / "batch-16", place / "batch-16")
    with pytest.raises(ArtifactError, match="batch-16 is damaged: it is not the one that was exported with"):
        tvm_schedules.load(place)
    (place / "batch-16" / "model.so").unlink()
    with pytest.raises(ArtifactError, match=r"batch-16/model\.so is missing"):
        tvm_schedules.load(place)
    tvm_schedules.build(fake.model(), place)
    assert not [path.name for path in place.iterdir() if path.name.startswith("batch-")]
    assert (place / "mine").read_text() == "kept"
    assert tvm_schedules.load(place).batch_sizes == (1,)


def test_networks_without_a_batch_have_no_sizes(tmp_path: Path) -> None:
    mixing = network([("Softmax", ["x"], "y", {"axis": 0})], {"x": [3, 4]}, {"y": [3, 4]})
    with pytest.raises(ModelError, match="are not known to count samples that do not depend on each other"):
        tvm_schedules.build(mixing, tmp_path / "out", batch_sizes=[1, 8])
    nodes: list[Node] = [("Reshape", ["x", "s"], "h", {}), ("Reshape", ["h", "r"], "y", {})]
    fixed = network(nodes, X, Y, s=np.array([4]), r=np.array([1, 4]))
    helper.set_model_props(fixed, {batch.PROPERTY: "x"})
    with pytest.raises(ModelError, match=r"for batch size 8 \(its own is 1, and shapes inside of it may be fixed"):
        tvm_schedules.build(fixed, tmp_path / "out", batch_sizes=[1, 8])
    with pytest.raises(ModelError, match="target 'c' has no libraries to choose from"):
        tvm_schedules.build(conv_net(), tmp_path / "out", "c", batch_sizes=[1, 8])
    for wrong in ([0], [2, -1]):
        with pytest.raises(ValueError, match="batch sizes must be at least 1"):
            tvm_schedules.build(conv_net(), tmp_path / "out", batch_sizes=wrong)
    assert not list(tmp_path.iterdir())


def test_samples_in_other_groups() -> None:
    runs = [{"x": np.full((1, 2), i), "t": np.array(7)} for i in range(5)]
    found = batch.regrouped(runs, ["x"], 2)
    assert [run["x"][:, 0].tolist() for run in found] == [[0, 1], [2, 3]]
    assert batch.regrouped(runs, ["x"], 8)[0]["x"][:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert found[1]["t"] == 7
