"""Budgets: met, combined, resumed bit for bit, and refused where they cannot be met."""

import functools
import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import tern_lightning
from tern_lightning import (
    EntropyConstraint,
    LatencyBudget,
    OperationBudget,
    SizeBudget,
    SparsityBudget,
    TernaryCallback,
)
from tern_lightning.callbacks._budget_options import pruning_loss, ternarizing_loss
from tern_lightning.callbacks._budget_solver import solve
from tern_lightning.callbacks._entropy_options import strength_options
from tern_lightning.callbacks._masking import Target
from tern_lightning.functional import ec2t
from tern_lightning.functional.patterns import zero_share
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.operations import layer_positions
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import effective_weight, is_ternary
from tern_lightning.quantizers import get_quantizer
from tern_lightning.schedules import Schedule
from tests.properties import examples
from tests.tern_lightning.training_nets import Record, Save
from tests.tern_lightning.training_runs import assert_same, everything
from tests.tvm_schedules.estimate.test_fit import made_table
from tvm_schedules.bench.networks import RandomNet
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.curves import SHARES, Curves, _codes, curves
from tvm_schedules.estimate.estimate import estimate
from tvm_schedules.estimate.targets import device

LAYERS = ("body.0", "body.3", "hidden")
RAMP = Schedule("linear", 0.0, 0.5)
INPUT = (1, 1, 8, 8)


def ternary(**options):
    return TernaryCallback(**{"verbose": False, "freeze": None, **options})


def zeros(net):
    found = [effective_weight(net.get_submodule(path)) for path in LAYERS]
    return sum(int((weight == 0).sum()) for weight in found) / sum(weight.numel() for weight in found)


def sparsity(amount=0.8, **options):
    return SparsityBudget(amount, **{"schedule": RAMP, "every": 1, **options})


def operations(amount=6000, **options):
    return OperationBudget(amount, **{"input_shape": INPUT, "schedule": RAMP, "every": 1, **options})


@examples(60)
@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000))
def test_the_choice_is_near_the_best_of_all(layers: int, budgets: int, seed: int) -> None:
    """Against every choice there is, of convex damages and straight costs: never over, and at most a step worse."""
    random, options = np.random.default_rng(seed), 6
    damage = [np.concatenate([[0.0], random.uniform(0, 1, options - 1)]).cumsum().cumsum() for _ in range(layers)]
    damage = [one / sum(other[-1] for other in damage) for one in damage]
    sizes = random.uniform(0.2, 1, (budgets, layers))
    left = random.uniform(0.2, 1.2, (budgets, 1)) * sizes.sum(1, keepdims=True)
    costs = [[size * np.linspace(1, 0, options) for size in row] for row in sizes / left]

    def lost(found):
        return sum(one[k] for one, k in zip(damage, found, strict=True))

    def over(found):
        return max(sum(cost[k] for cost, k in zip(row, found, strict=True)) for row in costs) > 1 + 1e-9

    found, multipliers = solve(damage, costs, np.full(budgets, 1e-3))
    assert not over(found)
    assert (multipliers > 0).all()
    best = min(lost(one) for one in itertools.product(range(options), repeat=layers) if not over(one))
    step = max(float(np.diff(one).max()) for one in damage)
    assert best - 1e-9 <= lost(found) <= best + budgets * step + 1e-9


def test_a_budget_that_nothing_meets_gives_what_costs_least() -> None:
    found, _ = solve([np.array([0.0, 1.0])] * 2, [[np.array([9.0, 2.0])] * 2], np.array([1e-3]))
    assert found == [1, 1]


@pytest.mark.parametrize("method", [None, "twn", "absmean"])
def test_sparsity_is_met_with_float_and_ternary_layers(method, fit) -> None:
    budget = sparsity(include=LAYERS)
    _, net = fit(*([ternary(method=method)] if method else []), budget)
    assert zeros(net) == pytest.approx(0.8, abs=0.03)
    assert zeros(net) >= 0.8 - 1e-6
    assert budget.estimate() <= 0.2 + 1e-6


def test_operations_are_met_and_counted_right(fit) -> None:
    budget = operations(include=LAYERS)
    _, net = fit(ternary(method="twn"), budget)
    positions = {"stem": 64, "body.0": 16, "body.3": 16, "hidden": 1, "head": 1}
    assert {path: count for path, (count, _) in layer_positions(net, torch.zeros(INPUT)).items()} == positions
    weights = {path: effective_weight(net.get_submodule(path)) for path in positions}
    additions = sum(
        int((w != 0).sum() if path in LAYERS else w.numel()) * positions[path] for path, w in weights.items()
    )
    assert budget.estimate() == pytest.approx(additions, rel=1e-6)
    assert 0.85 * 6000 <= additions <= 6000


def test_layers_that_are_applied_often_are_pruned_more_for_operations(fit) -> None:
    by_operations, by_zeros = operations(6500, include=LAYERS), sparsity(include=LAYERS)
    fit(by_operations)
    fit(by_zeros)
    shares = [one.zeros()["body.0"] - one.zeros()["hidden"] for one in (by_operations, by_zeros)]
    assert shares[0] > shares[1] + 0.1


def test_two_budgets_are_met_together(fit) -> None:
    both = [sparsity(0.7, include=LAYERS), operations(6500, include=LAYERS)]
    record = Record()
    _, net = fit(ternary(method="twn"), *both, logger=record)
    assert zeros(net) >= 0.7 - 1e-6
    assert both[1].estimate() <= 6500 * (1 + 1e-6)
    last = max(step for name, step in record.values if name == "budget/operations")
    assert record.values["budget/operations", last] == pytest.approx(both[1].estimate())
    assert record.values["budget/operations/limit", last] == 6500
    assert record.values["budget/kept", last] == pytest.approx(1 - zeros(net))


@pytest.mark.parametrize("by", ["pruning", "entropy"])
@pytest.mark.parametrize("name", ["step3", "step9", "step14", "epoch1"])
def test_a_resumed_run_is_the_uninterrupted_one(name, by, fit, make_net, tmp_path) -> None:
    def callbacks():
        steered = {"include": LAYERS, "by": by, "every": 1 if by == "pruning" else 4}
        method = "twn" if by == "pruning" else "ec2t"
        return [ternary(method=method, start=1), sparsity(0.75, **steered), operations(7000, **steered)]

    trainer, net = fit(*callbacks(), Save(tmp_path / "whole"))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    other = make_net()
    torch.nn.init.ones_(other.hidden.weight)
    trainer, net = fit(*callbacks(), net=other, ckpt_path=tmp_path / "whole" / f"{name}.ckpt")
    assert_same(everything(trainer, net, tmp_path / "resumed.ckpt"), expected)


def test_an_impossible_budget_says_what_can_be_reached(fit) -> None:
    with pytest.raises(
        MisconfigurationException, match=r"cannot reach 2000 \(operations\); with 98.0% zeros .* it is 3"
    ):
        fit(operations(2000, include=LAYERS))
    with pytest.raises(MisconfigurationException, match=r"cannot reach 0.01 \(kept\); with 98.0% zeros"):
        fit(sparsity(0.99, include=LAYERS))


def test_budgets_of_a_microcontroller_are_met_in_time_and_flash(fit) -> None:
    """Flash counts the code too where the core is known, and both budgets name what they count."""
    whole, tables = (
        SizeBudget(limit, of="flash", target=target, input_shape=INPUT, include=LAYERS)
        for limit, target in ((30_000, "cortex-m4"), (20_000, None))
    )
    assert (whole.name, tables.name) == ("cortex-m4_flash_bytes", "flash_bytes")
    time = LatencyBudget("cortex-m4", 50.0, input_shape=INPUT, include=LAYERS)
    _, net = fit(time, whole)
    (said,) = tern_lightning.estimate(net, ("cortex-m4",), input_shape=INPUT)
    assert said.stored["code"] > 2000
    assert said.stored_bytes <= 30_000
    assert 0 < said.seconds <= 0.05


def test_arguments_out_of_range_are_refused(fit) -> None:
    with pytest.raises(ValueError, match=r"zeros must be in \(0, 1\), got 1.0"):
        SparsityBudget(1.0)
    with pytest.raises(ValueError, match="operations must be a number above zero, got -1"):
        OperationBudget(-1)
    with pytest.raises(ValueError, match="of must be 'library' or 'flash', got 'file'"):
        SizeBudget(1000, of="file")
    with pytest.raises(ValueError, match=r"target of flash must be one of cortex-m4, .*, or left out, got 'pi4'"):
        SizeBudget(1000, of="flash", target="pi4")
    with pytest.raises(ValueError, match="target of a library must be a CPU, got 'cortex-m4'; of='flash' is for it"):
        SizeBudget(1000, target="cortex-m4")
    with pytest.raises(ValueError, match="milliseconds must be a number above zero"):
        LatencyBudget("pi4", 0)
    for groups in ([], [0], [2.0], ["2"]):
        with pytest.raises((TypeError, ValueError), match=r"groups must be (numbers of channels|a list of ints)"):
            sparsity(groups=groups)
    with pytest.raises(ValueError, match="most must be in"):
        sparsity(most=1.0)
    with pytest.raises(MisconfigurationException, match="needs the shape of its input: set the module's"):
        fit(operations(input_shape=None, include=LAYERS))
    with pytest.raises(MisconfigurationException, match="need the same include, exclude, groups, by and allow_float"):
        fit(sparsity(include=LAYERS), operations(include=["hidden"]))
    with pytest.raises(MisconfigurationException, match="LatencyBudget: target neoverse-n1: no table"):
        fit(LatencyBudget("neoverse-n1", 1.0, input_shape=INPUT, include=LAYERS))


@pytest.mark.parametrize("allow_float", [False, True])
def test_latency_is_met_and_what_is_exported_takes_as_long(allow_float, fit, tmp_path, monkeypatch) -> None:
    import tern_lightning
    from tvm_schedules.estimate import curves as module

    few = functools.partial(curves, shares=(0.0, 0.5, 0.75, 0.9, 0.98))  # the network is lowered as often
    monkeypatch.setattr(module, "curves", few)
    tables.write(tmp_path / "table.json", made_table())
    options = {"measured": str(tmp_path / "table.json"), "input_shape": INPUT, "schedule": RAMP, "every": 1}
    options |= {"include": LAYERS, "allow_float": allow_float}
    probe = LatencyBudget("host", 1e3, **options)
    fit(ternary(method="twn"), probe, max_epochs=1)
    assert probe.floats == (LAYERS if allow_float else ())
    limit = 0.5 * (probe.estimate() + probe.curves.total(dict.fromkeys(LAYERS, 0.98)))
    budget = LatencyBudget("host", limit, **options)
    _, net = fit(ternary(method="twn"), budget)
    assert budget.estimate() <= limit * (1 + 1e-6)
    (said,) = tern_lightning.estimate(net, ["host"], [made_table()], input_shape=INPUT)
    assert 1e3 * said.seconds == pytest.approx(budget.estimate(), rel=0.1)


def blocks(weight, group, axis):
    """Whether the neighboring output channels of every group are zero at every place: the naive way."""
    rows = weight.movedim(axis, 0)
    found = torch.zeros_like(rows, dtype=torch.bool)
    for start in range(0, len(rows), group):
        found[start : start + group] = (rows[start : start + group] == 0).all(0)
    return found.movedim(0, axis)


@pytest.mark.parametrize("group", [2, 4])
def test_channels_lose_their_weights_together(group, fit) -> None:
    budget = sparsity(0.7, include=LAYERS, groups=[group])
    _, net = fit(ternary(method="twn", options={"factor": 0.0}), budget)
    assert zeros(net) >= 0.7 - 1e-6
    for path in LAYERS:
        weight, axis = effective_weight(net.get_submodule(path)), int(path == "body.3")
        assert torch.equal(weight == 0, blocks(weight, group, axis))


@examples(60)
@given(
    st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 1), st.integers(0, 99)
)
def test_what_groups_lose_and_how_many_are_zero(outputs, inputs, k, group, axis, seed) -> None:
    """Against loops over blocks, of convolutions and of transposed ones."""
    random = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs, k) if axis == 0 else (inputs, outputs, k)
    layer = torch.nn.Conv1d(inputs, outputs, k) if axis == 0 else torch.nn.ConvTranspose1d(inputs, outputs, k)
    weight = torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) > 0.4)
    layer.weight = torch.nn.Parameter(weight)
    assert zero_share(weight, group, axis) == pytest.approx(float(blocks(weight, group, axis).float().mean()))
    rows = weight.movedim(axis, 0).reshape(outputs, -1)
    losses = [
        (float(block.square().sum()) / len(block), float(block.square().sum()), len(block))
        for start in range(0, outputs, group)
        for block in rows[start : start + group].T
    ]
    shares = np.linspace(0, 1, 9)
    found = pruning_loss(Target("", layer), shares, group)
    whole = float(weight.square().sum())
    for share, lost in zip(shares, found, strict=True):
        left, expected = round(share * weight.numel()), 0.0
        for _, squares, size in sorted(losses, key=lambda one: one[0]):
            left -= size
            if left < 0:
                break
            expected += squares
        energy = 1 - expected / whole if whole else 1.0
        if energy > 1e-3:
            assert lost == pytest.approx(-np.log(energy), rel=1e-3, abs=1e-5)
        else:
            assert lost > 6.9


def test_damage_is_about_the_sum_of_layer_adaptive_scores() -> None:
    """The paper's score of a weight is its square over the squares of all that are not smaller."""
    layer = torch.nn.Linear(40, 50)
    squares = layer.weight.detach().double().flatten().square().sort().values
    scores = squares / squares.flip(0).cumsum(0).flip(0)
    for share in (0.2, 0.5, 0.8, 0.95):
        (lost,) = pruning_loss(Target("", layer), np.array([share]), 1)
        assert lost == pytest.approx(float(scores[: int(share * scores.numel())].sum()), rel=0.01)


class Paired(OperationBudget):
    """A made-up cost of which groups of two channels take less than single ones, or more; zeros count in pairs."""

    shared = True

    def __init__(self, limit, cheap):
        super().__init__(limit, INPUT, RAMP, 1, include=LAYERS, groups=(1, 2))
        self.cheap = cheap

    def measure(self, trainer, pl_module):
        factor = 0.3 if self.cheap else 1.5
        return Curves(0.0, (0.0, 1.0), dict.fromkeys(LAYERS, ((1.0, 0.0), (factor, 0.0))))


def test_groups_are_chosen_where_they_pay(fit, caplog) -> None:
    for cheap in (True, False):
        budget = Paired(0.6, cheap)
        caplog.clear()
        with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
            fit(ternary(method="twn", options={"factor": 0.0}), budget)
        assert budget.chosen == dict.fromkeys(LAYERS, int(cheap))
        assert f"output channels that lose weights together: {1 + cheap} in body.0" in caplog.text
        assert budget.estimate() <= 0.6 * (1 + 1e-6)
        assert budget.curves.total(budget.zeros(), budget.chosen) == budget.estimate()


def test_a_run_with_groups_is_resumed_exactly(fit, make_net, tmp_path) -> None:
    def callbacks():
        return [ternary(method="twn", start=1), sparsity(0.75, include=LAYERS, groups=(1, 2, 4), every=3)]

    trainer, net = fit(*callbacks(), Save(tmp_path / "whole"))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step3", "step9"):
        trainer, net = fit(*callbacks(), net=make_net(), ckpt_path=tmp_path / "whole" / f"{name}.ckpt")
        assert_same(everything(trainer, net, tmp_path / "resumed.ckpt"), expected)
    with pytest.raises(MisconfigurationException, match=r"checkpoint's budget has groups=\(1, 2, 4\), now \(2,\)"):
        fit(sparsity(0.75, include=LAYERS, groups=[2]), net=make_net(), ckpt_path=tmp_path / "whole" / "step9.ckpt")


@examples(60)
@given(
    st.integers(2, 40),
    st.floats(0.05, 2),
    st.floats(0.05, 2),
    st.floats(0.3, 1),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_strengths_have_the_zeros_and_the_damage_of_the_method(size, positive, negative, most, masked, seed) -> None:
    """Against the formula of EC2T, a strength at a time."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, 3, generator=generator)
    mask = torch.rand(size, 3, generator=generator) > 0.3 if masked else None
    levels = torch.tensor(positive), torch.tensor(negative)
    found = strength_options(weight, *levels, mask, most, 9)
    latent = weight if mask is None else weight * mask
    assert found.strengths[0] == 0
    assert (np.diff(found.strengths) >= 0).all()
    for strength, zeros, damage in zip(found.strengths, found.zeros, found.damage, strict=True):
        made = ec2t(weight, *(level[None] for level in levels), strength=float(strength), mask=mask)
        values = made.dequantize()
        assert zeros == pytest.approx(float((values == 0).float().mean()), abs=1.01 / weight.numel())
        left = 1 - float((latent - values).square().sum() / latent.square().sum().clamp_min(1e-12))
        if left > 0.05:
            assert damage == pytest.approx(-np.log(left), abs=0.05 + 3 / weight.numel())
    assert found.zeros[-1] <= max(most, found.zeros[0]) + 1e-9
    full = ec2t(weight, *(level[None] for level in levels), strength=1.0, mask=mask).dequantize()
    assert found.strengths[-1] == 1 or float((full == 0).float().mean()) > most - 1e-6


@pytest.mark.parametrize("two_levels", [True, False])
@pytest.mark.parametrize("make", [sparsity, operations], ids=["zeros", "operations"])
def test_budgets_are_met_by_strengths_of_the_entropy_constraint(make, two_levels, fit) -> None:
    budget = make(include=LAYERS, by="entropy")
    _, net = fit(ternary(method="ec2t", options={"two_levels": two_levels}), budget)
    assert 0.8 * budget.limit <= budget.estimate() <= budget.limit * (1 + 1e-6)
    strengths = [float(net.get_submodule(path)._ternary_state.quantizer.strength) for path in LAYERS]
    assert min(strengths) >= 0
    assert max(strengths) > 0
    assert len(set(strengths)) > 1
    assert all(
        net.get_submodule(path).weight.count_nonzero() == net.get_submodule(path).weight.numel() for path in LAYERS
    )


def test_strengths_need_their_method_and_no_other_constraint(fit) -> None:
    with pytest.raises(MisconfigurationException, match=r"the method ec2t .* which .*hidden.* does not have"):
        fit(ternary(method="twn"), sparsity(by="entropy"))
    with pytest.raises(MisconfigurationException, match=r"ec2t has a group of channels in body\.0"):
        fit(ternary(method="ec2t", options={"group": 2}), sparsity(by="entropy"))
    with pytest.raises(MisconfigurationException, match="leave out EntropyConstraint"):
        fit(ternary(method="ec2t"), EntropyConstraint(0.2), sparsity(by="entropy"))
    with pytest.raises(MisconfigurationException, match="groups, by and allow_float"):
        fit(ternary(method="ec2t"), sparsity(by="entropy"), operations())
    with pytest.raises(ValueError, match=r"groups=\(1,\)"):
        sparsity(by="entropy", groups=(1, 2))
    with pytest.raises(ValueError, match="by must be 'pruning' or 'entropy'"):
        sparsity(by="magic")


@pytest.mark.parametrize("axis", [0, 1])
def test_codes_of_groups_share_their_zeros(axis) -> None:
    codes = torch.from_numpy(_codes((7, 6, 3), 0.6, "layer0", 2, axis))
    assert torch.equal(codes == 0, blocks(codes, 2, axis))
    assert float((codes == 0).float().mean()) == pytest.approx(0.6, abs=0.05)
    assert set(codes.unique().tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("terms", ["one", "signs", "two"])
def test_curves_of_time_are_those_of_weights_of_the_same_form(terms) -> None:
    """One level, two levels and two terms cost what a network costs that is estimated as it is."""

    def model(zeros):
        net = RandomNet((1, 3, 14, 14), zeros, [(0.0, 6.0)] * 20, 0)
        net.terms = terms
        made = net.model(net.relu(net.conv(net.relu(net.conv(net.mark("input_0"), 3, 32, dense=True)), 32, 32)))
        own = [tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.INT2]
        names = {tensor.name: f"layer.weight.term{index}" for index, tensor in enumerate(own)}
        for tensor in own:
            tensor.name = names[tensor.name]
        for node in made.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        next(node for node in reversed(made.graph.node) if node.op_type == "Conv").name = "layer"
        return made

    made = curves(model(0.5), ["layer"], device("pi4"), "seconds")
    for zeros in (0.7, 0.9):
        (said,) = estimate(model(zeros), ["pi4"])
        assert made.total({"layer": zeros}) == pytest.approx(said.seconds, rel=0.03)


def test_curves_of_bytes_fall_with_zeros(make_net) -> None:
    from tern_lightning.exporter.writer import to_onnx
    from tern_lightning.ternary_tensor import TernaryTensor

    net = make_net().eval()
    generator = torch.Generator().manual_seed(1)
    codes = {p: torch.randint(-1, 2, (1, *net.get_submodule(p).weight.shape), generator=generator) for p in LAYERS}
    level = torch.ones(1, 1)
    weights = {path: TernaryTensor(one.to(torch.int8), level, level) for path, one in codes.items()}
    model = to_onnx(net, torch.zeros(INPUT), ternary=weights, activations="uint8", verify=False)
    made = curves(model, LAYERS, device("host"), "bytes")
    assert made.shares == SHARES
    for path in LAYERS:
        assert made.values[path][0][2] > made.values[path][0][-1]
    everywhere = [made.total(dict.fromkeys(LAYERS, share)) for share in SHARES]
    assert everywhere[2] > everywhere[5] > everywhere[-1] > 0
    grouped = curves(model, LAYERS, device("host"), "bytes", (0.5, 0.9), (1, 2))
    assert [len(own) for own in grouped.values.values()] == [2, 2, 2]
    together = dict.fromkeys(LAYERS, 1)
    assert grouped.total(dict.fromkeys(LAYERS, 0.9), together) < grouped.total(dict.fromkeys(LAYERS, 0.5), together)
    assert grouped.least(0.9) <= grouped.total(dict.fromkeys(LAYERS, 0.9))


def test_curves_interpolate() -> None:
    made = Curves(5.0, (0.0, 0.5, 1.0), {"a": ((4.0, 2.0, 0.0),), "b": ((1.0, 1.0, 0.0),)})
    assert made.total({"a": 0.25, "b": 0.75}) == pytest.approx(5 + 3 + 0.5)


def shallow(net):
    """Whether each layer computes with a ternary weight."""
    return {path: is_ternary(net.get_submodule(path)) for path in LAYERS}


def test_a_budget_leaves_layers_float_where_it_can(fit, caplog) -> None:
    whole = operations(1e9, include=LAYERS, allow_float=True)
    _, net = fit(ternary(method="twn"), whole)
    assert shallow(net) == dict.fromkeys(LAYERS, False)
    assert whole.floats == LAYERS
    dense = whole.estimate()
    tight = operations(0.75 * dense, include=LAYERS, allow_float=True)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        callback = ternary(method="twn")
        _, net = fit(callback, tight)
    assert 0 < len(tight.floats) < len(LAYERS)
    assert shallow(net) == {path: path not in tight.floats for path in LAYERS}
    assert f"layers that go back to float, as the budget allows it: {', '.join(tight.floats)}" in caplog.text
    reasons = {one.path: one.reason for one in callback.decisions if one.method is None}
    assert {reasons[path] for path in tight.floats} == {"float, as the budget allows it"}
    positions = layer_positions(net, torch.zeros(INPUT))
    weights = {path: effective_weight(net.get_submodule(path)) for path in positions}
    additions = sum(
        int((w != 0).sum() if path in LAYERS else w.numel()) * positions[path][0] for path, w in weights.items()
    )
    assert tight.estimate() == pytest.approx(additions, rel=1e-3)
    assert additions <= 0.75 * dense


def test_ternary_weights_lose_the_energy_of_their_difference(make_net) -> None:
    layer = torch.nn.Linear(40, 50)
    target = Target("", layer)
    assert ternarizing_loss(target) == 0
    swap(layer, LayerState(get_quantizer("twn")))
    weight, made = layer.weight.detach(), layer._ternary_state.ternary(layer.weight).dequantize()
    left = 1 - float(((weight - made) ** 2).sum() / (weight**2).sum())
    assert 0.5 < left < 0.95
    assert ternarizing_loss(target) == pytest.approx(-np.log(left), rel=1e-5)


@pytest.mark.parametrize("by", ["pruning", "entropy"])
@pytest.mark.parametrize("name", ["step3", "step9", "epoch1"])
def test_a_run_with_layers_that_stay_float_is_resumed_exactly(name, by, fit, make_net, tmp_path) -> None:
    def callbacks():
        method = "twn" if by == "pruning" else "ec2t"
        steered = {
            "include": LAYERS,
            "by": by,
            "every": 4,
            "allow_float": True,
            "schedule": Schedule("linear", 0.2, 0.5),
        }
        return [ternary(method=method), operations(7000, **steered)]

    trainer, net = fit(*callbacks(), Save(tmp_path / "whole"))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    other = make_net()
    torch.nn.init.ones_(other.hidden.weight)
    again = callbacks()
    trainer, resumed = fit(*again, net=other, ckpt_path=tmp_path / "whole" / f"{name}.ckpt")
    assert_same(everything(trainer, resumed, tmp_path / "resumed.ckpt"), expected)
    assert again[1].floats
    assert shallow(resumed) == shallow(net) == {path: path not in again[1].floats for path in LAYERS}


def test_float_layers_need_a_ternarizer_that_can_give_them_up(fit, make_net, tmp_path) -> None:
    with pytest.raises(MisconfigurationException, match="needs a TernaryCallback"):
        fit(operations(1e9, include=LAYERS, allow_float=True))
    late = operations(1e9, include=LAYERS, allow_float=True, schedule=Schedule("linear", 0.7, 0.9))
    with pytest.raises(MisconfigurationException, match="cannot go back to float, as codes are frozen"):
        fit(ternary(freeze=0.5), late)
    with pytest.raises(MisconfigurationException, match="groups, by and allow_float"):
        fit(ternary(), sparsity(allow_float=True), operations())
    fit(ternary(), operations(1e9, include=LAYERS, allow_float=True), Save(tmp_path))
    with pytest.raises(MisconfigurationException, match=r"went back to float. HINT: allow_float=True"):
        fit(ternary(), operations(1e9, include=LAYERS), net=make_net(), ckpt_path=tmp_path / "step9.ckpt")
