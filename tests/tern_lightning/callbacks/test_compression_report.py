"""What the compression report keeps of a run."""

import json

import pytest
import torch

from tern_lightning import TernaryCallback
from tern_lightning.callbacks import CompressionReport
from tern_lightning.callbacks.compression_report import BINS
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.callbacks.test_ternary import Watch
from tests.tern_lightning.training_nets import Save


def document(folder):
    return json.loads((folder / "compression.json").read_text())


def test_it_keeps_every_epoch_and_the_layers_at_the_end(fit, record, tmp_path):
    ternary = TernaryCallback(freeze=None, verbose=False)
    # In front of the callback that makes layers ternary: the order must not matter.
    _, net = fit(CompressionReport(tmp_path / "out"), ternary, logger=record, max_epochs=3)
    found = document(tmp_path / "out")
    assert [one["epoch"] for one in found["epochs"]] == [0, 1, 2]
    assert [one["step"] for one in found["epochs"]] == [4, 8, 12]
    for one in found["epochs"]:
        for name in ("ternary/sparsity", "ternary/entropy", "ternary/flips", "val_loss"):
            assert one["values"][name] == pytest.approx(record.values[name, one["step"] - 1]), name
    layers = ternary_layers(net)
    assert [one["path"] for one in found["layers"]] == list(layers)
    for one in found["layers"]:
        layer = layers[one["path"]]
        codes, latent = layer.ternary().codes[0], weight_of(layer).detach()
        assert one["method"] == "twn"
        assert one["shape"] == list(latent.shape)
        counts = torch.tensor(one["histogram"]["counts"])
        assert counts.shape == (3, BINS)
        assert counts.sum(1).tolist() == [(codes == code).sum().item() for code in (-1, 0, 1)]
        edges = torch.tensor(one["histogram"]["edges"])
        assert edges[-1].item() == pytest.approx(latent.abs().max().item(), rel=1e-5)
        middle = (latent > edges[20]) & (latent < edges[21])
        assert counts[:, 20].sum() == pytest.approx(middle.sum().item(), abs=1)
        last = record.values[f"ternary/{one['path']}/flips", 11]
        assert [entry["epoch"] for entry in one["history"]] == [0, 1, 2]
        assert (one["flips"], one["history"][-1]["flips"]) == (pytest.approx(last), pytest.approx(last))


def test_the_page_is_written_at_the_end(fit, tmp_path):
    fit(TernaryCallback(verbose=False), CompressionReport(), max_epochs=2)
    text = (tmp_path / "compression.html").read_text()
    assert '"path":"body.0"' in text
    assert '"name":"Net"' in text
    fit(TernaryCallback(verbose=False), CompressionReport(tmp_path / "bare", page=False), max_epochs=1)
    assert not (tmp_path / "bare" / "compression.html").exists()


def test_a_resumed_run_has_the_epochs_of_an_unbroken_one(fit, tmp_path):
    methods = [TernaryCallback(freeze=2, verbose=False) for _ in range(2)]
    fit(methods[0], CompressionReport(tmp_path / "whole", page=False), Save(tmp_path), max_epochs=4)
    fit(methods[1], CompressionReport(tmp_path / "rest", page=False), ckpt_path=tmp_path / "step10.ckpt", max_epochs=4)
    whole, rest = document(tmp_path / "whole"), document(tmp_path / "rest")
    assert [one["epoch"] for one in rest["epochs"]] == [0, 1, 2, 3]
    assert rest["layers"] == whole["layers"]
    for resumed, unbroken in zip(rest["epochs"], whole["epochs"], strict=True):
        common = resumed["values"].keys() & unbroken["values"].keys()
        assert {name: resumed["values"][name] for name in common} == {name: unbroken["values"][name] for name in common}
        assert "val_loss" in common


def test_a_run_without_ternary_layers_is_a_run(fit, tmp_path):
    fit(CompressionReport(tmp_path), max_epochs=2)
    found = document(tmp_path)
    assert found["layers"] == []
    assert [set(one["values"]) for one in found["epochs"]] == [{"train_loss", "val_loss"}] * 2
    assert (tmp_path / "compression.html").exists()


def test_a_quick_test_run_writes_nothing(fit, tmp_path):
    fit(TernaryCallback(verbose=False), CompressionReport(tmp_path / "out"), fast_dev_run=True)
    assert not (tmp_path / "out").exists()


def test_flips_are_those_within_the_epoch(fit, tmp_path):
    ternary = TernaryCallback(freeze=None, verbose=False)
    watch = Watch(ternary)
    fit(ternary, watch, CompressionReport(tmp_path, page=False), max_epochs=2)
    (hidden,) = [one for one in document(tmp_path)["layers"] if one["path"] == "hidden"]
    flips = (watch.codes[0] != watch.codes[4]).double().mean().item()
    assert hidden["history"][0]["flips"] == pytest.approx(flips)
