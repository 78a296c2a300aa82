"""Losses and metrics over batches, against sums by hand."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from tern_lightning.evaluation import evaluate, to_device
from tests.tern_lightning.training_nets import Net, samples

BATCHES = [(x, y) for x, y in zip(*(part.split(8) for part in samples(24)), strict=True)]


def test_a_loss_function_and_its_metrics_are_averaged_over_the_batches():
    net = nn.Linear(2, 1)
    batches = [torch.ones(3, 2), torch.zeros(5, 2)]
    found = evaluate(net, batches, lambda net, x: (net(x).mean(), {"rows": len(x)}))
    assert found.loss == pytest.approx(net.weight.sum().item() / 2 + net.bias.item())
    assert found.metrics == {"rows": 4.0}


def test_validation_steps_give_what_they_log():
    class Measured(Net):
        def __init__(self):
            super().__init__()
            self.right = MulticlassAccuracy(3, average="micro")

        def validation_step(self, batch, batch_idx, dataloader_idx=7):
            assert dataloader_idx == 0
            logits = self(batch[0])
            self.right(logits, batch[1])
            self.log("accuracy", self.right, on_epoch=True)
            self.log_dict({"mean": logits.mean(), "val_loss": F.cross_entropy(logits, batch[1])})

    torch.manual_seed(0)
    net = Measured().eval()
    found = evaluate(net, BATCHES)
    logits = [net(x) for x, _ in BATCHES]
    losses = [F.cross_entropy(one, y).item() for one, (_, y) in zip(logits, BATCHES, strict=True)]
    right = torch.cat([one.argmax(1) == y for one, (_, y) in zip(logits, BATCHES, strict=True)]).float().mean().item()
    assert found.loss == pytest.approx(sum(losses) / 3)
    assert found.metrics["accuracy"] == pytest.approx(right)
    assert found.metrics["mean"] == pytest.approx(torch.stack([one.mean() for one in logits]).mean().item(), abs=1e-6)
    assert "log" not in vars(net)
    assert net.right.update_count == 0


def test_the_training_step_gives_the_loss_where_validation_does_not_with_the_same_random_numbers():
    class Noisy(Net):
        def training_step(self, batch, batch_idx):
            return {"loss": F.cross_entropy(self(batch[0] + torch.randn_like(batch[0])), batch[1])}

        def validation_step(self, batch, batch_idx):
            self.log("val_acc", 0.5)

    net = Noisy().eval()
    before = torch.random.get_rng_state()
    first, second = evaluate(net, BATCHES), evaluate(net, BATCHES)
    assert first == second != evaluate(net, BATCHES, seed=1)
    assert first.metrics == {"val_acc": 0.5}
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_loss_there_is_an_error_that_says_so():
    class Silent(pl.LightningModule):
        pass

    for net, words in ((nn.Linear(1, 1), "loss must be given for a Linear"), (Silent(), "Silent gives no loss")):
        with pytest.raises(ValueError, match=words):
            evaluate(net, [torch.zeros(1, 1)])
    with pytest.raises(ValueError, match="at least one"):
        evaluate(nn.Linear(1, 1), [])


def test_batches_come_through_the_hooks_of_the_module():
    class Scaled(Net):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] / 2, batch[1]

    assert torch.equal(to_device(Scaled(), BATCHES[0])[0], BATCHES[0][0] / 2)
    assert to_device(nn.Linear(1, 1), BATCHES[0])[0] is BATCHES[0][0]
