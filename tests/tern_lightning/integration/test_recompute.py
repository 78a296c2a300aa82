"""Layers whose forward runs more than once for a step: gradient checkpointing, and modules that use a layer twice."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tern_lightning import TernaryCallback
from tern_lightning.callbacks import ActivationQuantization, CoarseActivation, MultiLevelActivation
from tests.tern_lightning.training_nets import Net


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "freeze": 0.6, "bn_batches": 2, **options})


class Checkpointed(Net):
    """Forgets the features between its linear layers, and the middle one's, until backward; no batch normalization."""

    reentrant: bool | None = None

    def __init__(self, **options):
        super().__init__(**options)
        self.body[1] = self.body[4] = torch.nn.Identity()

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(self.run(self.hidden, self.run(self.body, x).flatten(1)).relu())

    def run(self, part, x):
        return part(x) if self.reentrant is None else checkpoint(part, x, use_reentrant=self.reentrant)


ACTIVATIONS = {
    "none": lambda: [],
    "observed": lambda: [ActivationQuantization(bits=4, observe_batches=6)],
    "learned": lambda: [ActivationQuantization(bits=4, observe_batches=3, learned=True)],
    "percentile": lambda: [ActivationQuantization(bits=4, observe_batches=6, observer="percentile", percentile=95)],
    "coarse": lambda: [CoarseActivation(bits=3)],
    "multilevel": lambda: [MultiLevelActivation(terms=2)],
}
CASES = [(method, "none") for method in ("hestia", "sherry", "ttq", "twn")]
CASES += [("twn", activation) for activation in ACTIVATIONS if activation != "none"]


@pytest.mark.parametrize(("method", "activation"), CASES)
def test_gradient_checkpointing_trains_the_same(method, activation, fit, make_net):
    nets = {}
    for reentrant in (None, True, False):
        net = nets[reentrant] = make_net(Checkpointed)
        net.reentrant = reentrant
        fit(ternary(method), *ACTIVATIONS[activation](), net=net, max_epochs=4)
    for name, parameter in nets[None].named_parameters():
        for reentrant in (True, False):
            other = nets[reentrant].get_parameter(name)
            torch.testing.assert_close(other, parameter, rtol=1e-4, atol=1e-5)


class Siamese(Net):
    """Runs every layer on two views of a batch before the loss."""

    def training_step(self, batch, batch_idx):
        near, far = self(batch[0]), self(3 * batch[0].flip(-1))
        return F.cross_entropy(near, batch[1]) + F.mse_loss(far.softmax(-1), near.softmax(-1))


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_a_layer_that_runs_twice_in_a_step(activation, fit, make_net):
    trainer, net = fit(ternary(), *ACTIVATIONS[activation](), net=make_net(Siamese))
    assert trainer.global_step == 20
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_range_covers_all_calls_of_a_batch(fit, make_net):
    """The bounds move once for every batch, toward the smallest and the largest value of all its calls."""
    own = ActivationQuantization(bits=8, observe_batches=3, ema=0.5, include=["stem"])
    seen = []

    class Watch(Siamese):
        def training_step(self, batch, batch_idx):
            if len(seen) < 3:
                both = torch.cat([batch[0].flatten(), 3 * batch[0].flatten()])
                seen.append((both.min().item(), both.max().item()))
            return super().training_step(batch, batch_idx)

    fit(own, net=make_net(Watch), max_epochs=1)
    low, high = seen[0]
    for one in seen[1:]:
        low, high = (low + one[0]) / 2, (high + one[1]) / 2
    hook = own._quantizers["stem"]
    assert hook.low.item() == pytest.approx(low, rel=1e-5)
    assert hook.high.item() == pytest.approx(high, rel=1e-5)


class Adversarial(Net):
    """Two optimizers, as in a GAN: the second loss is differentiated after the first step, through both networks."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        early, late = self.optimizers()
        features = F.relu(self.body(F.relu(self.stem(batch[0])))).flatten(1)
        loss = F.cross_entropy(self.head(F.relu(self.hidden(features.detach()))), batch[1])
        late.zero_grad()
        self.manual_backward(loss)
        late.step()
        loss = -F.cross_entropy(self.head(F.relu(self.hidden(features))), batch[1])
        early.zero_grad()
        self.manual_backward(loss)
        early.step()

    def configure_optimizers(self):
        late = [*self.hidden.parameters(), *self.head.parameters()]
        early = [*self.stem.parameters(), *self.body.parameters()]
        return torch.optim.SGD(early, 0.01), torch.optim.SGD(late, 0.01)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_ranges_move_with_the_optimizer_of_their_layer(activation, fit, make_net):
    (own,) = ACTIVATIONS[activation]()
    hooks = "_quantizers" if isinstance(own, ActivationQuantization) else "_hooks"
    steps = {}

    class Count(Adversarial):
        def training_step(self, batch, batch_idx):
            if not steps:
                for path, hook in getattr(own, hooks).items():
                    steps[path] = 0
                    hook.step = self.counting(path, hook.step)
            super().training_step(batch, batch_idx)

        def counting(self, path, step):
            def counted(*args, **kwargs):
                steps[path] += 1
                return step(*args, **kwargs)

            return counted

    trainer, net = fit(ternary(), own, net=make_net(Count))
    batches = trainer.global_step // 2
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    trained = activation in ("learned", "coarse", "multilevel")
    for path, count in steps.items():
        assert (0 < count <= batches) if trained else count == 0, (path, count)
