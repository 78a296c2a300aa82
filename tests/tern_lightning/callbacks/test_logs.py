"""Values that the module logs itself are not overwritten."""

import pytest

from tern_lightning import (
    PruningSchedule,
    TernaryCallback,
)
from tests.tern_lightning.training_nets import Net


class Logs(Net):
    """Logs under names of the callbacks, in training and in validation."""

    def training_step(self, batch, batch_idx):
        self.log("ternary/sparsity", 42.0, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("pruning/sparsity", 43.0)
        super().validation_step(batch, batch_idx)


def test_metrics_of_the_module_are_not_overwritten(fit, make_net):
    with pytest.warns(UserWarning, match="the module logs ternary/sparsity itself"):
        trainer, _ = fit(TernaryCallback(), PruningSchedule(0.5), net=make_net(Logs), max_epochs=2)
    assert trainer.callback_metrics["ternary/sparsity"] == 42
    assert trainer.callback_metrics["pruning/sparsity"] == 43
    assert 0 < trainer.callback_metrics["ternary/entropy"] < 1.6
    assert trainer.callback_metrics["pruning/pruned"] > 0
