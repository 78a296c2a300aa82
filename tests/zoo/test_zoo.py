"""One network of every kind through the whole road; ``python -m benchmarks.zoo`` takes all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tvm")

import tern_lightning
import tvm_schedules
from tests.zoo.files import FILES
from tests.zoo.network import SAMPLES
from tests.zoo.registry import NETWORKS, build

USUAL = {
    "ds_cnn": 8,
    "shufflenet_units": 13,
    "unet_transposed": 9,
    "anchor_head": 5,
    "espcn": 1,
    "vae": 4,
    "tc_resnet8": 9,
    "text_cnn": 2,
    "lstm": 1,
    "encoder_pre_norm": 8,
    "decode_step_small": 6,
    "pointnet": 4,
    "gcn_index_add": 1,
}
"""Networks of the usual tests, which need torch only, and how many layers of them are ternary at least."""


def test_every_kind_is_among_the_usual_tests() -> None:
    plain = {network.kind for network in NETWORKS.values()}
    assert {NETWORKS[name].kind for name in USUAL} == plain
    assert not any(NETWORKS[name].needs for name in USUAL)
    assert len(NETWORKS) >= 60
    assert len(FILES) >= 15


def test_a_network_is_the_same_at_every_call() -> None:
    first, second = build("tc_resnet8"), build("tc_resnet8")
    for name, value in first.module.state_dict().items():
        torch.testing.assert_close(value, second.module.state_dict()[name], rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(first.inputs, second.inputs, strict=True))


def test_weights_are_ternary_with_the_share_of_zeros() -> None:
    weight = dict(build("tc_resnet8", zeros=0.75).module.named_parameters())["2.first.weight"].flatten(1)
    for channel in weight:
        assert len(channel.abs().unique()) == 2
        assert float((channel == 0).float().mean()) == pytest.approx(0.75, abs=1 / len(channel))


@pytest.mark.parametrize("name", USUAL)
def test_the_library_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    example = build(name)
    result = tern_lightning.export(example.module, tmp_path / "out", samples=example.inputs, batch_size=example.batch)
    assert len(result.network.ternary) >= USUAL[name]
    library = tvm_schedules.load(tmp_path / "out")
    count = SAMPLES if example.batch else 1
    for index in range(count):
        inputs = [x[index : index + 1] if example.batch else x for x in example.inputs]
        with torch.no_grad():
            wanted = example.module(*inputs)
        found = library(*(x.numpy() for x in inputs))
        for ours, theirs in zip(_all(found), _all(wanted), strict=True):
            expected = np.asarray(theirs, np.float64)
            # Eight-bit activations of random networks: the numbers are near, and a wrong layer would not be.
            difference = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
            assert difference < 0.15, f"sample {index}: relative error {difference:.3f}"


def _all(result: object) -> list[object]:
    return list(result) if isinstance(result, tuple | list) else [result]


@pytest.mark.parametrize("name", ["light_squeezenet"])
def test_a_stored_file_compiles(name: str, tmp_path: Path) -> None:
    file = FILES[name]
    if file.lacks():
        pytest.skip(file.lacks())
    artifact = tvm_schedules.build(
        file.load(),
        tmp_path / "out",
        input_shapes=file.shapes,
        constants=file.constants,
        samples=file.inputs(1),
        verify=True,
    )
    assert artifact.report is not None
    assert artifact.report.passed
