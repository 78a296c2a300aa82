"""What callbacks cannot work beside, and layers that cannot be chosen."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import (
    SLR,
    PruningSchedule,
    TernaryCallback,
)
from tern_lightning.callbacks._select import check_company


@pytest.mark.parametrize("cls", [TernaryCallback, SLR])
def test_the_pruning_of_lightning_is_refused(cls, fit):
    other = pl.callbacks.ModelPruning("l1_unstructured", amount=0.5)
    with pytest.raises(MisconfigurationException, match=r"beside Lightning's ModelPruning.*PruningSchedule"):
        fit(cls(), other, max_epochs=1)


def test_sharded_weights_are_refused(fit, make_net, tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net, mesh = make_net(), init_device_mesh("cpu", (1,))
        net.hidden.weight = nn.Parameter(distribute_tensor(net.hidden.weight.detach(), mesh))
        with pytest.raises(MisconfigurationException, match=r"'hidden.weight' is a DTensor \(FSDP2"):
            fit(TernaryCallback(), net=net, max_epochs=1)
    finally:
        torch.distributed.destroy_process_group()


def test_strategies_that_keep_parts_of_weights_are_refused(make_net):
    strategy = pl.strategies.FSDPStrategy()
    with pytest.raises(MisconfigurationException, match="needs whole weights, and FSDPStrategy keeps parts of them"):
        check_company(SimpleNamespace(callbacks=[], strategy=strategy), make_net(), "TernaryCallback")


def test_a_layer_that_cannot_be_chosen_says_why(fit, make_net):
    net = make_net()
    net.hidden = nn.utils.parametrizations.weight_norm(net.hidden)
    words = r"include pattern 'hidden' matches layer 'hidden', which cannot be chosen: its weight is computed from"
    with pytest.raises(MisconfigurationException, match=words):
        fit(PruningSchedule(0.5, include=["hidden"]), net=net, max_epochs=1)
