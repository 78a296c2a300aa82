import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.checkpoint import CheckpointError, load_module, read_checkpoint
from tests.tern_lightning.training_nets import Loader, Net, Save


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    net = Net(width=4)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TernaryCallback(verbose=False), Save(folder)],
    )
    trainer.fit(net, Loader())
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder / "epoch0.ckpt"


def test_class_and_instance(path):
    expected = torch.load(path, weights_only=True)["state_dict"]
    instance = Net(width=4)
    assert load_module(path, instance) is instance
    for net in (load_module(path, Net), instance, load_module(path.parent / "weights.pt", Net, width=4)):
        assert not net.training
        assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert load_module(path, Net, lr=0.5).hparams == {"width": 4, "optimizer": "adam", "lr": 0.5}


def test_modules_that_are_not_of_lightning_and_that_are_built_late(tmp_path):
    class Plain(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.layer = nn.Linear(size, size)

    class Late(pl.LightningModule):
        def configure_model(self):
            self.layer = nn.Linear(3, 3)

    torch.save({"state_dict": Plain(3).state_dict()}, tmp_path / "a.ckpt")
    assert load_module(tmp_path / "a.ckpt", Plain, size=3).layer.in_features == 3
    assert load_module(tmp_path / "a.ckpt", Late).layer.in_features == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(share, path, tmp_path):
    data = path.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"cut.ckpt' is (truncated|not a PyTorch)"):
        load_module(tmp_path / "cut.ckpt", Net)


def test_foreign(tmp_path):
    (tmp_path / "text").write_text("not a checkpoint at all")
    with pytest.raises(CheckpointError, match=r"not a PyTorch checkpoint|truncated"):
        read_checkpoint(tmp_path / "text")
    torch.save({"model": 1, "epoch": 2}, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"has no state_dict, it has \['epoch', 'model'\]"):
        read_checkpoint(tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(CheckpointError, match="has no state_dict, it has list"):
        read_checkpoint(tmp_path / "list")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere")


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_code_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "extra": Evil()}, tmp_path / "evil")
    with pytest.raises(CheckpointError, match=r"builtins.print, which could run code"):
        read_checkpoint(tmp_path / "evil")
    assert "code ran" not in capsys.readouterr().out


def test_wrong_class_and_hyper_parameters(path):
    class Other(pl.LightningModule):
        def __init__(self, classes):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 5, padding=1)
            self.tail = nn.Linear(1, 1)

    with pytest.raises(CheckpointError, match=r"Other cannot be built .*'classes'.*\['lr', 'optimizer', 'width'\]"):
        load_module(path, Other)
    words = r"missing: tail.bias, tail.weight; unexpected: body.0.bias, .* and 8 more; other shapes: stem.weight"
    with pytest.raises(CheckpointError, match=words):
        load_module(path, Other, classes=3)
    with pytest.raises(
        CheckpointError, match=r"other shapes: stem.weight \(\(4, 1, 3, 3\) in the file, \(5, 1, 3, 3\)"
    ):
        load_module(path, Net, width=5)
    with pytest.raises(CheckpointError, match=r"unknown hyper-parameters \['depth'\]"):
        load_module(path, Net, depth=3)
    with pytest.raises(TypeError, match="with an instance"):
        load_module(path, Net(), width=4)
