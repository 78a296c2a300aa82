"""What an exported file says about its first axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import tern_lightning
from tern_lightning.exporter import write_onnx
from tern_lightning.exporter.batch import counting
from tern_lightning.exporter.batch_sizes import traced_for_sizes
from tern_lightning.exporter.options import ExportOptions
from tests.tern_lightning.exporter.export_nets import make_ternary
from tvm_schedules.verify.batch_axis import PROPERTY


class Function(nn.Module):
    """A linear layer, and a function of its result and of the other inputs."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self.linear(x), *others)


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 4, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def attention(batch_first: bool) -> nn.Module:
    layer = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    net = Function(lambda x: layer(x, x, x, need_weights=False)[0])
    net.layer = layer
    return net


X = (1, 3, 4)


@pytest.mark.parametrize(
    ("net", "shapes", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), [X], {"0"}),
        (attention(True), [X], {"0"}),
        (attention(False), [X], set()),  # the first axis is time
        (attention(False), [(3, 2, 4)], set()),
        (Recurrent(True), [(2, 3, 4)], {"0"}),
        (Recurrent(False), [(2, 3, 4)], set()),
        (Recurrent(False), [X], set()),  # a step, and nothing of it depends on later ones
        (Function(lambda x: x.mean()), [X], set()),
        (Function(lambda x: (x, x.mean(0))), [X], set()),
        (Function(lambda x: x - x.mean(0, keepdim=True)), [X], set()),
        (Function(lambda x: x.view(1, -1)), [X], set()),
        (Function(lambda x: x.view(1, 12)), [X], None),  # takes no other number
        (Function(lambda x: x.reshape(-1, 12)), [X], {"0"}),
        (Function(lambda x, other: x * other), [X, X], {"0", "1"}),
        (Function(lambda x, table: x @ table), [X, (4, 4)], {"0"}),
        (Function(lambda x, scale: x * scale), [X, (1,)], {"0"}),
        (nn.BatchNorm1d(3), [X], {"0"}),
    ],
)
def test_a_module_tells(net: nn.Module, shapes: list[tuple[int, ...]], expected: set[str] | None) -> None:
    random = np.random.default_rng(0)
    batches = [tuple(random.normal(size=shape).astype(np.float32) for shape in shapes) for _ in range(3)]
    for count in (1, 3):
        found = counting(net.eval(), batches[:count], [str(index) for index in range(len(shapes))])
        assert found == expected


def props(net: nn.Module, *args: Tensor, activations: str = "float32") -> dict[str, str]:
    model = write_onnx(net, args, activations=activations).model  # type: ignore[arg-type]
    return {entry.key: entry.value for entry in model.metadata_props}


def test_the_file_says_so() -> None:
    torch.manual_seed(0)
    net = make_ternary(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))).eval()
    for activations in ("float32", "uint8"):
        assert props(net, torch.randn(X), activations=activations)[PROPERTY] == "input"
    other = make_ternary(Function(lambda x: x - x.mean(0, keepdim=True))).eval()
    assert props(other, torch.randn(X))[PROPERTY] == ""
    fixed = make_ternary(Function(lambda x: x.view(1, 12))).eval()
    assert PROPERTY not in props(fixed, torch.randn(X))


def test_attention_takes_any_number_of_samples(tmp_path: Path) -> None:
    """Shapes inside of its file are fixed ones: only the module knows."""
    torch.manual_seed(0)
    net = make_ternary(attention(True)).eval()
    images = torch.randn(6, 3, 4)
    model = tern_lightning.export(net, tmp_path / "out", samples=images, activations="float32").artifact.load()
    with torch.no_grad():
        np.testing.assert_allclose(model(images.numpy()), net(images).numpy(), rtol=1e-4, atol=1e-5)


class Words(nn.Module):
    """Attention over words behind a first token of its own, whose shapes inside hold the number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.token = nn.Embedding(9, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(ids), -1, -1), self.words(ids)], 1)
        padded = nn.functional.pad(ids == 0, (1, 0))
        return self.head(self.layer(x, src_key_padding_mask=padded)[:, 0])


class Heard(nn.Module):
    """A recurrent layer, whose first state has a row for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1))


@pytest.mark.parametrize(
    ("make", "inputs", "lengths"),
    [(Words, torch.arange(56).reshape(7, 8) % 8 + 1, (5,)), (Heard, torch.linspace(-2, 2, 84).reshape(7, 3, 4), ())],
)
def test_several_batches_of_networks_whose_shapes_are_fixed(
    make: Callable[[], nn.Module], inputs: Tensor, lengths: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = make_ternary(make()).eval()
    made = tern_lightning.export(
        net, tmp_path / "out", samples=inputs, lengths=lengths, batch_size=[1, 3], activations="float32"
    )
    model = made.artifact.load()
    assert model.batch_sizes == (1, 3)
    for length in (inputs.shape[1], *lengths):
        given = inputs[:, :length]
        with torch.no_grad():
            np.testing.assert_allclose(model(given.numpy()), net(given).numpy(), rtol=1e-4, atol=1e-5)
    for folder in ("batch-3", *(f"length-{length}/batch-3" for length in lengths)):
        assert (tmp_path / "out" / folder / "metadata.json").is_file()


def test_only_where_the_file_cannot_be_changed() -> None:
    torch.manual_seed(0)
    options = ExportOptions(batch_size=[2, 5, 1], activations="float32")
    batches = [(np.arange(16, dtype=np.float32).reshape(2, 2, 4),)]
    net = make_ternary(nn.Sequential(nn.Flatten(), nn.Linear(8, 3))).eval()
    file = write_onnx(net, (torch.from_numpy(batches[0][0]),))
    assert traced_for_sizes(net, batches, file, options) == []
    net = make_ternary(Heard()).eval()
    file = write_onnx(net, (torch.from_numpy(batches[0][0]),))
    shapes = [
        tuple(dim.dim_value for dim in onnx.load_from_string(data).graph.input[0].type.tensor_type.shape.dim)
        for data in traced_for_sizes(net, batches, file, options)
    ]
    assert shapes == [(5, 2, 4), (1, 2, 4)]
