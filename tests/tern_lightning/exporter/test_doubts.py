"""What an export that succeeds warns of."""

import dataclasses
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tern_lightning import TernaryCallback, export
from tern_lightning.exporter.errors import ExportWarning
from tern_lightning.exporter.pipeline import _doubts
from tern_lightning.exporter.writer import write_onnx
from tests.tern_lightning.exporter.export_nets import make_ternary
from tests.tern_lightning.training_nets import Loader, samples

ROOT = Path(__file__).parents[3]


def warned(module, place, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(module, place, onnx_only=True, **options)
    return [str(w.message) for w in caught if issubclass(w.category, ExportWarning)]


def test_float_phase(fit, tmp_path):
    _, net = fit(TernaryCallback("twn", start=4, freeze=None, verbose=False), max_epochs=2)
    lines = []
    (text,) = warned(net, tmp_path / "out", samples=samples()[0], progress=lines.append)
    assert text.endswith("because it has not begun or float weights were loaded: body.0, body.3, hidden")
    assert f"warning: {text}" in lines
    _, net = fit(TernaryCallback("twn", start=0, freeze=None, verbose=False), max_epochs=2, loader=Loader)
    assert warned(net, tmp_path / "out", samples=samples()[0]) == []


def test_no_ternary_layer(tmp_path):
    (text,) = warned(nn.Linear(4, 3), tmp_path / "out", samples=torch.randn(8, 4), activations="float32")
    assert text == "no layer is ternary: the network is exported dense"


class Standardized(nn.Conv2d):
    """A convolution with a weight of mean zero, as in Weight Standardization (2019)."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def test_a_weight_that_forward_computes(tmp_path):
    torch.manual_seed(0)
    net = make_ternary(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Standardized(8, 8, 3), nn.Conv2d(8, 4, 1)))
    (text,) = warned(net, tmp_path / "out", samples=torch.randn(4, 3, 9, 9))
    assert text.startswith("ternary layers 2 are exported dense, because their forward multiplies by what it makes of")


def test_another_result_with_eight_bits(tmp_path):
    """One sample of a thousand times the others' size takes all steps for itself."""
    net, x = make_ternary(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))), torch.randn(64, 16)
    assert warned(net, tmp_path / "out", samples=x) == []
    x[5] *= 1000
    (text,) = warned(net, tmp_path / "out", samples=x, batch_size=8)
    assert "of the samples in the first 8 batches another one of its outputs is the largest" in text
    assert "percentile=99.9" in text


@pytest.mark.parametrize(("cosine", "told"), [(0.99999, False), (0.999, True)])
def test_the_largest_of_outputs_that_are_alike_says_nothing(cosine, told):
    """As those of an autoencoder, where another one is the largest for half of the samples."""
    net = make_ternary(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)))
    written = write_onnx(net, torch.randn(4, 16), activations="uint8")
    drift = dataclasses.replace(written.drift, top1=0.5, cosine=cosine)
    lines = _doubts(net, dataclasses.replace(written, drift=drift), real=True)
    assert ["50.0% of the samples" in line for line in lines] == [True] * told


@pytest.mark.parametrize("other", [False, True])
def test_lightning_is_missing(other):
    """The package under its other name does not serve; one sentence says so."""
    code = f"""
        import importlib.util
        import sys
        importlib.util.find_spec = lambda name: {other} or None
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "lightning":
                    raise ModuleNotFoundError("No module named 'lightning'", name="lightning")
        sys.meta_path.insert(0, Missing())
        try:
            from tern_lightning import TernaryCallback
        except ImportError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    text = "the package 'lightning' is missing; install it with: pip install 'tern-lightning[train]'"
    assert done.stdout.startswith(text)
    assert ("pytorch_lightning" in done.stdout) == other
    assert len(done.stdout.splitlines()) == 1
