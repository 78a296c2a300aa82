"""Callbacks in a loop of one's own do what they do in a Trainer."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F

import tern_lightning
from tern_lightning import (
    ActivationQuantization,
    EntropyConstraint,
    PruningSchedule,
    Schedule,
    StructuredPruning,
    TernaryCallback,
)
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import masks
from tests.tern_lightning.training_nets import Loader, Net, samples
from tests.tern_lightning.training_runs import assert_same

STEPS = 12
CASES = {
    "pruned": lambda: [
        PruningSchedule(0.7, schedule=Schedule("linear", end=0.5), every=2),
        TernaryCallback("twn", options={"factor": 0.0}, start=0.25, bn_batches=2, verbose=False),
    ],
    "entropy": lambda: [
        TernaryCallback("ec2t", freeze=0.75, verbose=False),
        EntropyConstraint(0.4, Schedule("linear", end=0.5)),
    ],
    "trained levels": lambda: [TernaryCallback("ttq", freeze=2, verbose=False)],
    "rounded": lambda: [TernaryCallback("absmean", verbose=False), ActivationQuantization(observe_batches=4)],
    "groups": lambda: [StructuredPruning((2, 2), dead=0.9), TernaryCallback("twn", verbose=False)],
}


def batches():
    x, y = samples(32)
    return [(x[i * 8 % 32 :][:8], y[i * 8 % 32 :][:8]) for i in range(STEPS)]


def make_net():
    torch.manual_seed(3)
    return Net(optimizer="sgd")


def train(net, optimizer, run, steps):
    for index in steps:
        x, y = batches()[index]
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        run.step()


def sgd(net):
    return torch.optim.SGD(net.parameters(), 0.02, momentum=0.9, weight_decay=1e-3)


def latents(net):
    return {name: value.detach().clone() for name, value in net.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_training_as_a_trainer_s(case, make_trainer):
    class Plain(Net):
        def configure_optimizers(self):
            return sgd(self)

    torch.manual_seed(3)
    reference = Plain(optimizer="sgd")
    trainer = make_trainer(*CASES[case](), max_epochs=3)
    trainer.fit(reference, Loader())
    net = make_net()
    optimizer = sgd(net)
    run = tern_lightning.prepare(net, optimizer, CASES[case](), STEPS, epoch_steps=4)
    train(net, optimizer, run, range(STEPS))
    run.finish()
    assert_same(latents(net), latents(reference))
    assert_same(dict(net.state_dict()), dict(reference.state_dict()))
    assert ternary_layers(net).keys() == ternary_layers(reference).keys() != set()
    assert_same(masks(net), masks(reference))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [2, 5, 9])
def test_a_run_that_goes_on_is_the_uninterrupted_one(case, stop, tmp_path):
    whole = make_net()
    optimizer = sgd(whole)
    run = tern_lightning.prepare(whole, optimizer, CASES[case](), STEPS, epoch_steps=4)
    train(whole, optimizer, run, range(stop))
    saved = {"net": whole.state_dict(), "optimizer": optimizer.state_dict(), "run": run.state_dict()}
    torch.save(saved, tmp_path / "saved.pt")
    train(whole, optimizer, run, range(stop, STEPS))
    run.finish()

    net = Net(optimizer="sgd")
    other = sgd(net)
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    net.load_state_dict(saved["net"])
    other.load_state_dict(saved["optimizer"])
    again = tern_lightning.prepare(net, other, CASES[case](), STEPS, epoch_steps=4, state=saved["run"])
    assert again.done == stop
    train(net, other, again, range(stop, STEPS))
    again.finish()
    assert_same(latents(net), latents(whole))
    assert_same(again.state_dict(), run.state_dict())


def train_in_a_process(rank, folder, world_size):
    """Steps with one's own batches, each process its own, and learned ranges."""
    if world_size > 1:
        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    net = make_net()
    module = torch.nn.parallel.DistributedDataParallel(net) if world_size > 1 else net
    optimizer, rounding = sgd(net), ActivationQuantization(observe_batches=1, learned=True)
    run = tern_lightning.prepare(net, optimizer, [TernaryCallback("absmean", verbose=False), rounding], 5)
    x, y = samples(64)
    saved = []
    for step in range(5):
        mine = slice(rank, None, 2)
        optimizer.zero_grad()
        F.cross_entropy(module(x[mine][step * 4 :][:4]), y[mine][step * 4 :][:4]).backward()
        optimizer.step()
        run.step()
        saved.append({name: dict(one) for name, one in rounding.state_dict()["layers"].items()})
    torch.save(saved, f"{folder}/{world_size}-{rank}.pt")
    if world_size > 1:
        torch.distributed.destroy_process_group()


def test_ranges_of_two_processes_are_averaged_and_learned_together(tmp_path):
    torch.multiprocessing.spawn(train_in_a_process, (tmp_path, 2), nprocs=2)
    for rank in range(2):
        train_in_a_process(rank, tmp_path, 1)
    one, other = [torch.load(tmp_path / f"2-{rank}.pt", weights_only=True) for rank in range(2)]
    alone = [torch.load(tmp_path / f"1-{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(one, other)
    for path, found in one[0].items():
        for bound in ("low", "high"):
            torch.testing.assert_close(found[bound], (alone[0][0][path][bound] + alone[1][0][path][bound]) / 2)
        assert found["scale"] != one[-1][path]["scale"]


def test_what_needs_a_trainer_is_refused():
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    wrong = [
        ([tern_lightning.LowRank()], TypeError, "got LowRank"),
        ([pl.Callback()], TypeError, "got Callback"),
        ([TernaryCallback(rules="auto")], ValueError, "needs a Trainer, which has the data"),
        ([TernaryCallback("tga", options={"two_pass": True})], ValueError, "two_pass=False"),
    ]
    for callbacks, error, words in wrong:
        with pytest.raises(error, match=words):
            tern_lightning.prepare(net, sgd(net), callbacks, 10)
    with pytest.raises(ValueError, match="at least 1, got 0 and None"):
        tern_lightning.prepare(net, sgd(net), [], 0)
    assert_same(net.state_dict(), before)


def test_the_end_is_the_end(recwarn):
    net = make_net()
    optimizer = sgd(net)
    run = tern_lightning.prepare(net, optimizer, [PruningSchedule(0.5)], 3)
    train(net, optimizer, run, range(1))
    run.finish()
    assert any("before PruningSchedule was done" in str(one.message) for one in recwarn)
    assert not optimizer._optimizer_step_pre_hooks
    train(net, optimizer, run, range(2))
    with pytest.raises(RuntimeError, match="after the 3 steps"):
        run.step()
