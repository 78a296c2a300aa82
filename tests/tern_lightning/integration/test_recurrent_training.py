"""Recurrent modules in a whole run: phases, pruning, an averaged copy, a checkpoint, and the file."""

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from tern_lightning import PruningSchedule, TernaryCallback
from tern_lightning.exporter import write_onnx
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import masks
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

WEIGHTS = [f"rnn.weight_{name}_l0{suffix}" for suffix in ("", "_reverse") for name in ("ih", "hh")]


class Rows(Net):
    """The rows of an image as a sequence."""

    def __init__(self):
        super().__init__()
        del self.body, self.hidden, self.head
        self.stem = nn.Linear(8, 6)
        self.rnn = nn.GRU(6, 10, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        return self.head(self.rnn(self.stem(x[:, 0]))[0].mean(1))


def callbacks():
    ternary = TernaryCallback("absmean", start=1, freeze=0.6, verbose=True)
    return [ternary, EMAWeightAveraging(decay=0.7), PruningSchedule(0.5)]


def test_a_run_and_a_resumed_one(fit, make_net, tmp_path, capsys):
    trainer, net = fit(*callbacks(), Save(tmp_path / "steps"), net=make_net(Rows))
    printed = capsys.readouterr().out
    assert all(name in printed for name in WEIGHTS)
    assert list(ternary_layers(net)) == WEIGHTS
    assert set(masks(net)) >= set(WEIGHTS)
    state = net.state_dict()
    for name in WEIGHTS:
        assert ternary_layers(net)[name]._ternary_state.phase == "frozen"
        assert len(state[name].unique()) == 3
        assert not state[name][~masks(net)[name]].any()
    expected = everything(trainer, net, tmp_path / "end.ckpt")

    for name in ("step6", "epoch3"):  # while the weights are ternary, and when they are frozen
        again, other = fit(*callbacks(), net=make_net(Rows), ckpt_path=tmp_path / f"steps/{name}.ckpt")
        assert_same(everything(again, other, tmp_path / "resumed.ckpt"), expected)

    loaded = make_net(Rows)
    loaded.load_state_dict(torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"])
    written = write_onnx(loaded, samples(4)[0])
    assert sorted(written.ternary) == sorted(WEIGHTS)
