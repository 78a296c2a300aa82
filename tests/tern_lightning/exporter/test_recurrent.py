"""Recurrent modules, from ternary weights to onnxruntime and to a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tern_lightning as tl
import tvm_schedules
from tern_lightning.exporter import ExportError, write_onnx
from tests.tern_lightning.exporter.export_nets import relative_error, run


class Streaming(nn.Module):
    """A recurrent module whose states come in and go out."""

    def __init__(self, kind: type[nn.RNNBase], *args: Any, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(*args, **options)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = states if isinstance(self.rnn, nn.LSTM) else states[0] if states else None
        y, last = self.rnn(x, given or None if isinstance(given, tuple) else given)
        return (y, *last) if isinstance(last, tuple) else (y, last)


def ternary(net: nn.Module, method: str = "twn") -> nn.Module:
    """Every weight, the first and the last one too."""
    tl.ternarize(net, rules=[tl.Rule("*", method)], optimizer=torch.optim.SGD(net.parameters(), 0.1))
    return net.eval()


CASES = [
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}, False),
    (nn.LSTM, {"bias": False}, True),
    (nn.GRU, {"num_layers": 2, "batch_first": True}, True),
    (nn.GRU, {"bidirectional": True}, False),
    (nn.RNN, {"nonlinearity": "relu", "bidirectional": True}, True),
    (nn.RNN, {"batch_first": True}, False),
]


@pytest.mark.parametrize(("kind", "options", "states"), CASES)
@pytest.mark.parametrize("method", ["twn", "ttq"])
def test_the_file_computes_what_the_module_computes(
    kind: type[nn.RNNBase], options: dict[str, Any], states: bool, method: str
) -> None:
    net = ternary(Streaming(kind, 5, 9, **options), method)
    x = torch.randn(3, 4, 5)
    batch = 3 if options.get("batch_first") else 4
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    given = [torch.randn(count, batch, 9) for _ in range(2 if kind is nn.LSTM else 1)] if states else []
    written = write_onnx(net, (x, *given))
    assert sorted(written.ternary) == sorted(f"rnn.{n}" for n, p in net.rnn.named_parameters() if p.ndim == 2)
    assert not written.dense
    operators = [node.op_type for node in written.model.graph.node]
    assert operators.count(kind.__name__) == options.get("num_layers", 1)
    assert "MatMul" not in operators
    with torch.no_grad():
        for own, wanted in zip(run(written.model, x, *given), net(x, *given), strict=True):
            assert relative_error(own, wanted) < 1e-5


def test_sequences_without_a_batch_and_one_module_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(self.rnn(x)[0])[1]

    net, x = ternary(Twice()), torch.randn(5, 6)
    written = write_onnx(net, x)
    with torch.no_grad():
        assert relative_error(run(written.model, x)[0], net(x)) < 1e-5
    codes = [tensor.name for tensor in written.model.graph.initializer if tensor.data_type == 26]
    assert len(codes) == 2  # stored once


@pytest.mark.parametrize("dense", ["float32", "int8"])
def test_eight_bit_inputs_and_dense_weights(dense: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(12, 24, batch_first=True), nn.Linear(24, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    net = Net().eval()
    tl.ternarize(net, rules=[tl.Rule("rnn.weight_ih_l0", "absmean"), tl.Rule("*", None)])
    net.eval()
    written = write_onnx(net, torch.randn(2, 7, 12), activations="uint8", dense_weights=dense)
    assert list(written.ternary) == ["rnn.weight_ih_l0"]
    assert sorted(written.dense) == ["head", "rnn.weight_hh_l0"]
    assert written.quantized_check is not None
    assert written.quantized_check.passed
    assert len(written.ranges) == 2


def test_what_has_no_operator_is_refused() -> None:
    with pytest.raises(ExportError, match="'rnn' has proj_size=3, for which ONNX has no operator"):
        write_onnx(Streaming(nn.LSTM, 4, 6, proj_size=3), torch.randn(2, 3, 4))


def test_frames_one_at_a_time_are_the_whole_sequence(tmp_path: Path) -> None:
    """What a library is for that hears a microphone: a step, with the states as inputs and outputs."""
    net = ternary(Streaming(nn.LSTM, 8, 20, num_layers=2))
    sequence, state = torch.randn(6, 1, 8), torch.zeros(2, 1, 20)
    step = write_onnx(net, (sequence[:1], state, state)).model
    model = tvm_schedules.build(step, tmp_path / "step").load()
    with torch.no_grad():
        wanted = net(sequence, state, state)
    h = c = state.numpy()
    for index, frame in enumerate(sequence.numpy()):
        y, h, c = model(frame[None], h, c)
        np.testing.assert_allclose(y[0], wanted[0][index].numpy(), atol=1e-5)
    np.testing.assert_allclose(h, wanted[1].numpy(), atol=1e-5)
    np.testing.assert_allclose(c, wanted[2].numpy(), atol=1e-5)
