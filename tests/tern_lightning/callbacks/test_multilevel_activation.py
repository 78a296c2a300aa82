"""Multi-level weights and activations in the Trainer."""

import pytest
import torch

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.multilevel_activation import MultiLevelActivation
from tern_lightning.nn.learned_input import MultiLevelInput
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything


def test_callback_trains_freezes_and_is_loadable(fit, tmp_path):
    own = TernaryCallback("multilevel", options={"terms": 2}, verbose=False, freeze=0.6)
    trainer, net = fit(own, MultiLevelActivation(2), Save(tmp_path))
    assert trainer.callback_metrics["ternary/sparsity"] > 0
    plain = Net.load_from_checkpoint(tmp_path / "epoch4.ckpt")
    for path, layer in ternary_layers(net).items():
        found = layer.ternary()
        assert found.terms == 2
        assert torch.equal(found.dequantize(), plain.get_submodule(path).weight.detach())
        assert len(plain.get_submodule(path).weight.abs().unique()) <= 5
    early = torch.load(tmp_path / "step13.ckpt", weights_only=True)["callbacks"][own.state_key]["codes"]["hidden"]
    assert torch.equal(net.hidden.ternary().codes, early)


def activations(**options):
    return MultiLevelActivation(**{"terms": 2, "learning_rate": 0.01, "signed": True, **options})


def test_trained_levels_and_resume(fit, make_net, tmp_path):
    trainer, net = fit(activations(), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    hook = next(h for h in net.hidden._forward_pre_hooks.values() if isinstance(h, MultiLevelInput))
    first = torch.load(tmp_path / "step1.ckpt", weights_only=True)["callbacks"][activations().state_key]["hidden"]
    assert not torch.equal(first["value"], hook.value.detach())
    assert first["value"][0] == pytest.approx(2 * first["value"][1].item())
    assert net.state_dict().keys() == Net().state_dict().keys()
    for name in ("step1", "step6", "val1", "step18"):
        trainer, net = fit(activations(), net=make_net(), ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected, name)


@pytest.mark.parametrize("options", [{"terms": 0}, {"terms": 5}, {"factor": -1.0}, {"iterations": -1}])
def test_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        get_quantizer("multilevel", **options)
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        MultiLevelActivation(0)
    with pytest.raises(ValueError, match="learning_rate"):
        MultiLevelActivation(learning_rate=-1.0)
