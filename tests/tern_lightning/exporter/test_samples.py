"""Samples of an export: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tern_lightning.exporter import ExportError
from tern_lightning.exporter.samples import collect_batches
from tests.tern_lightning.exporter.export_nets import make_ternary


def make_net() -> nn.Module:
    return make_ternary(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)))


class TestSamples:
    def test_sources(self, tmp_path: Path) -> None:
        net = make_net()
        x = np.arange(60, dtype=np.float32).reshape(5, 12)
        np.savez(tmp_path / "x.npz", x=x)
        np.save(tmp_path / "x.npy", x)
        for source in (x, torch.from_numpy(x), (x,), {"x": x}, tmp_path / "x.npz", str(tmp_path / "x.npy")):
            batches, real = collect_batches(net, source, batch_size=2)
            assert real
            np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), x[:4])
        assert collect_batches(net, x, batch_size=None)[0][0][0].shape == (5, 12)
        assert len(collect_batches(net, x, (1, 12))[0]) == 5

    def test_several_inputs_and_integers(self) -> None:
        samples = (np.zeros((4, 3)), np.arange(8).reshape(4, 2))
        batches, _ = collect_batches(None, samples, batch_size=4)
        assert [array.dtype for array in batches[0]] == [np.float32, np.int64]
        batches, real = collect_batches(None, None, [(2, 3), (2, 5)])
        assert [array.shape for array in batches[0]] == [(2, 3), (2, 5)]
        assert not real

    def test_names_say_whose_samples_they_are(self, tmp_path: Path) -> None:
        class Net(torch.nn.Module):
            def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor | None = None) -> torch.Tensor:
                return ids + mask

        arrays = {name: np.full((2, 3), i) for i, name in enumerate(("ids", "mask", "kinds"))}
        np.savez(tmp_path / "x.npz", mask=arrays["mask"], ids=arrays["ids"])
        turned = {name: arrays[name] for name in ("kinds", "mask", "ids")}
        for source, count in ((turned, 3), (tmp_path / "x.npz", 2)):
            (batch,), _ = collect_batches(Net(), source, batch_size=2)
            assert [int(array.flat[0]) for array in batch] == list(range(count))
        (batch,), _ = collect_batches(None, turned, batch_size=2, names=["mask", "kinds", "ids"])
        assert [int(array.flat[0]) for array in batch] == [1, 2, 0]
        (batch,), _ = collect_batches(Net(), {"b": arrays["mask"], "a": arrays["ids"]}, batch_size=2)
        assert [int(array.flat[0]) for array in batch] == [1, 0], "of other names the order counts"
        for other in ("kinds", "masks"):
            with pytest.raises(ExportError, match="the inputs are ids, mask, kinds: the first 2 must be named"):
                collect_batches(Net(), {"ids": arrays["ids"], other: arrays["mask"]}, batch_size=2)

    def test_random_inputs_are_repeatable(self) -> None:
        first, again, other = (collect_batches(None, None, (1, 6), seed=s)[0][0][0] for s in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_example_input_array(self) -> None:
        net = make_net()
        net.example_input_array = torch.ones(3, 12)
        batches, real = collect_batches(net)
        assert batches[0][0].shape == (3, 12)
        assert not real  # it says the shape; numbers to calibrate on it is not
        net.example_input_array = {"x": torch.ones(3, 12)}
        with pytest.raises(ExportError, match="keyword"):
            collect_batches(net)

    def test_missing_shape_says_what_to_give(self) -> None:
        with pytest.raises(ExportError, match=r"--samples FILE\.npz.*--input-shape"):
            collect_batches(make_net())

    @pytest.mark.parametrize(
        ("samples", "options", "message"),
        [
            (np.zeros((2, 12)), {"batch_size": 4}, "2 samples do not fill a batch of 4"),
            ((np.zeros((2, 3)), np.zeros((3, 3))), {}, "different lengths"),
            (np.zeros((2, 12)), {"input_shape": (1, 11)}, "do not fit input_shape"),
            ("nowhere.npz", {}, "does not exist"),
            (["text"], {}, "arrays or tensors of numbers"),
            (({"x": np.zeros(3)},), {}, "got dict; wrap a module"),
            (np.array(["text"]), {}, "arrays or tensors of numbers"),
        ],
    )
    def test_bad_samples(self, samples: Any, options: dict, message: str) -> None:
        with pytest.raises(ExportError, match=message):
            collect_batches(None, samples, **options)

    def test_damaged_and_unsafe_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros(100))
        (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
        np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
        np.savez(tmp_path / "empty.npz")
        for name in ("cut", "object"):
            with pytest.raises(ExportError, match="not a readable"):
                collect_batches(None, tmp_path / f"{name}.npz")
        with pytest.raises(ExportError, match="no array"):
            collect_batches(None, tmp_path / "empty.npz")

    def test_bad_sizes(self) -> None:
        with pytest.raises(ValueError, match="input_shape must hold positive"):
            collect_batches(None, None, (0, 3))
        with pytest.raises(ValueError, match="batch_size"):
            collect_batches(None, np.zeros((2, 2)), batch_size=0)
