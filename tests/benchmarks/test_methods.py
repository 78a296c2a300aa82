"""The comparison of methods: its data, recipes, measures, resumption and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_rel
from torch import Tensor, nn

from benchmarks.methods import __main__ as compare_methods
from benchmarks.methods import data as compare_data
from benchmarks.methods import report as compare_report
from benchmarks.methods.__main__ import Comparison, Plan
from benchmarks.methods.data import Batches, Data, scaled, shift
from benchmarks.methods.rearranged import RearrangedPruning, alike
from benchmarks.methods.recipes import RECIPES, Recipe, choose, depthwise
from benchmarks.methods.training import Learner, fit, logits_of, measure
from examples.models import CifarResNet
from tern_lightning import TernaryTensor
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import effective_weight, ternary_layers
from tern_lightning.quantizers import get_quantizer, quantizer_names
from tvm_schedules.artifact.inspect import inspect

PLAN = Plan("tiny", 1, 2, batch=16)

CIRCUMSTANCES = ("seconds", "when", "cpu")
"""What two equal runs differ in."""


def quiet(name: str, share: float) -> None:
    assert 0 <= share <= 1


def random_data(count: int = 64, augment: compare_data.Augment | None = None) -> Data:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=random)
    return Data((images, labels), (images, labels), 10, augment)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compare_methods.NETWORKS, "tiny", lambda classes, inputs: CifarResNet(1, classes, width=4))


def test_validation_is_the_end_of_the_training_part_and_no_test_image() -> None:
    data = compare_data.digits()
    part = compare_data.validation(data, 200)
    assert [len(one[1]) for one in (part.train, part.test)] == [1147, 200]
    assert torch.equal(torch.cat([part.train[0], part.test[0]]), data.train[0])
    assert torch.equal(part.test[1], data.train[1][-200:])
    assert part.digest != data.digest
    for count in (0, 1347):
        with pytest.raises(ValueError, match=rf"in \[1, 1346\], got {count}"):
            compare_data.validation(data, count)


def test_digits_are_those_of_the_digits_example() -> None:
    data = compare_data.digits()
    assert [len(part[1]) for part in (data.train, data.test)] == [1347, 450]
    seen = {image.numpy().tobytes() for part in (data.train, data.test) for image in part[0]}
    assert len(seen) == 1797
    assert int(data.train[0].max()) == 255


@pytest.mark.parametrize(("flip", "fill"), [(False, 0.0), (True, -1.0)])
def test_shift_gives_crops_of_the_padded_image(flip: bool, fill: float) -> None:
    images = torch.rand(40, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    moved = shift(2, flip, fill)(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    found = set()
    for image, result in zip(images, moved, strict=True):
        padded = F.pad(image, (2, 2, 2, 2), value=fill)
        crops = {(y, x, False): padded[:, y : y + 5, x : x + 6] for y in range(5) for x in range(5)}
        crops |= {(y, x, True): crop.flip(2) for (y, x, _), crop in crops.items()} if flip else {}
        [place] = [place for place, crop in crops.items() if torch.equal(crop, result)]
        found.add(place)
    assert len({place[:2] for place in found}) > 10
    assert {place[2] for place in found} == ({False, True} if flip else {False})


def test_batches_are_a_new_permutation_every_pass() -> None:
    data = random_data(50)
    batches, again = Batches(data, 16, seed=3), Batches(data, 16, seed=3)
    places = {image.numpy().tobytes(): index for index, image in enumerate(scaled(data.train[0]))}
    passes = []
    for _ in range(2):
        rows: list[int] = []
        for (images, labels), (others, _) in zip(batches, again, strict=True):
            assert torch.equal(images, others)
            index = [places[image.numpy().tobytes()] for image in images]
            assert torch.equal(labels, data.train[1][index])
            rows += index
        assert len(rows) == len(set(rows)) == 48 == 16 * len(batches)
        passes.append(rows)
    assert passes[0] != passes[1]


def test_measures_of_a_float_and_a_ternary_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 16, 10))
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    found = measure(net, image)
    convolution, linear = 4 * 27, 640
    assert found["bytes"] == 4 * (convolution + linear + 10)
    assert found["multiplies"] == convolution * 16 + linear
    assert found["adds"] == 4 * 26 * 16 + 10 * 63 + 10  # the last ten: biases
    assert "sparsity" not in found

    weight = torch.zeros(4, 27)
    weight[:, :6] = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5, 0.5])
    with torch.no_grad():
        net[0].weight.copy_(weight.reshape(4, 3, 3, 3))
    swap(net[0], LayerState(get_quantizer("twn"), 0, "ternary"))
    found = measure(net, image)
    assert found["sparsity"] == pytest.approx(21 / 27)
    shares = np.array([21, 4, 2]) / 27
    assert found["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert found["weight_bytes"] == min(-(-108 // 8) + 3, -(-108 // 5), 108 // 4) + 4
    assert found["bytes"] == found["weight_bytes"] + 4 * (linear + 10)
    assert found["multiplies"] == 4 * 16 + linear
    assert found["adds"] == 4 * 5 * 16 + 10 * 63 + 10


def test_networks() -> None:
    found = {
        name: measure(make(10, 1 if name == "digits" else 3), image_of(name))
        for name, make in compare_methods.NETWORKS.items()
        if name != "tiny"
    }
    # He et al. (2016), table 6: ResNet-20 has 0.27 million parameters; 41 million multiplications are well known.
    assert found["resnet20"]["bytes"] / 4 == pytest.approx(0.27e6, rel=0.01)
    assert found["resnet20"]["multiplies"] == pytest.approx(40.8e6, rel=0.02)
    assert found["resnet20-w8"]["bytes"] == pytest.approx(found["resnet20"]["bytes"] / 4, rel=0.03)
    assert found["resnet20-s2"]["bytes"] == found["resnet20"]["bytes"]
    assert found["resnet20-s2"]["multiplies"] == pytest.approx(found["resnet20"]["multiplies"] / 4, rel=0.01)


def test_depthwise_convolutions_stay_dense() -> None:
    net = compare_methods.NETWORKS["mobilenet"](10, 1)
    paths = depthwise(net)
    assert len(paths) == 7  # one for every inverted residual
    assert all(net.get_submodule(path).weight.shape[1:] == (1, 3, 3) for path in paths)
    assert depthwise(compare_methods.NETWORKS["resnet20-s2"](10, 1)) == []  # its first layer has one input channel


def test_a_network_with_depthwise_convolutions_is_compared(tmp_path: Path) -> None:
    data, plan = random_data(), replace(PLAN, network="mobilenet")
    seen: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_methods, "accuracy", lambda net, part: seen.append(net) or 0.0)
        result = Comparison(data, plan, tmp_path, quiet, keep=True).run(choose(["twn-4x1-80"])[0], 0, distill=False)
    assert result["sparsity"] == pytest.approx(0.8, abs=0.01)
    layers = ternary_layers(seen[-1])
    assert len(layers) == 14  # of 23 layers 7 are depthwise, and the first and the last one stay dense
    for layer in layers.values():
        zeros = (effective_weight(layer) == 0).unflatten(0, (-1, 4))
        assert torch.equal(zeros.all(1), zeros.any(1))
    kinds = [layer.kind for layer in inspect(tmp_path / "seed-0" / "twn-4x1-80" / "model.onnx").layers]
    assert kinds.count("ternary") == 14


def image_of(network: str) -> Tensor:
    return torch.zeros(1, *((1, 8, 8) if network == "digits" else (3, 32, 32)), dtype=torch.uint8)


def test_every_method_is_compared() -> None:
    assert {recipe.method for recipe in RECIPES} >= set(quantizer_names())
    names = [recipe.name for recipe in RECIPES]
    assert len(names) == len(set(names))
    assert [recipe.name for recipe in choose(["ttq*", "twn"])] == [
        n for n in names if n == "twn" or n.startswith("ttq")
    ]
    with pytest.raises(ValueError, match=r"'nothing' is not known; there are \["):
        choose(["twn", "nothing"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe(recipe: Recipe, tmp_path: Path) -> None:
    result = Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)
    assert json.loads((tmp_path / "seed-0" / f"{recipe.name}.json").read_text()).items() >= result.items()
    if recipe.method is None:
        assert "sparsity" not in result
        return
    assert 0 <= result["sparsity"] < 1
    if recipe.zeros is not None and recipe.name.endswith("-threshold"):  # which makes zeros of its own
        assert result["sparsity"] > recipe.zeros
    elif recipe.zeros is not None:
        assert result["sparsity"] == pytest.approx(recipe.zeros, abs=0.01)
    assert result["bytes"] < json.loads((tmp_path / "seed-0" / "float.json").read_text())["bytes"]


def test_channels_that_are_alike_become_groups() -> None:
    """Rows of which two and two, and four and four, have their large weights at the same places, in a random order."""
    random = torch.Generator().manual_seed(1)
    far, near = torch.rand(2, 40, generator=random) > 0.5, torch.arange(40) < 4
    kinds = torch.stack([row ^ change for row in far for change in (near & False, near) for _ in range(2)])
    order = torch.randperm(8, generator=random)
    rows = (kinds.float() + 0.01 * torch.rand(8, 40, generator=random))[order]
    for group in (2, 4):
        blocks = {tuple(sorted(block)) for block in order[alike(rows, group)].reshape(-1, group).tolist()}
        assert blocks == {tuple(range(start, start + group)) for start in range(0, 8, group)}
    assert sorted(alike(rows[:7], 4).tolist()) == list(range(7))


def test_rearranged_blocks_are_pruned_together() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
    order = alike(net[1].weight.detach().flatten(1), 2)
    pruning = RearrangedPruning(0.6, 2, every=1, include=["net.1"])
    fit(Learner(net, 0.01), Batches(random_data(), 8, 0), 1, "32-true", 0, [pruning])
    zero = net[1].weight.detach()[order] == 0
    assert float(zero.float().mean()) == pytest.approx(0.6, abs=0.01)
    assert torch.equal(zero[0::2], zero[1::2])


def test_done_runs_are_skipped_and_changed_plans_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = choose(["twn"])[0]
    first = Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    monkeypatch.setattr(compare_methods, "fit", lambda *_: pytest.fail("trained again"))
    again = Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)
    assert again["accuracy"] == first["accuracy"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    for plan, other, seed, distill in (
        (replace(PLAN, rate=1e-4), recipe, 0, False),
        (PLAN, replace(recipe, options={"factor": 1.0}), 0, False),
        (PLAN, recipe, 1, False),
        (PLAN, recipe, 0, True),
    ):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            Comparison(random_data(), plan, tmp_path, quiet).run(other, seed, distill)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        Comparison(random_data(63), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)


def test_a_float_network_trained_just_now_or_read_from_its_file_is_the_same_start(tmp_path: Path) -> None:
    recipe = choose(["twn"])[0]
    fresh = Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)
    (tmp_path / "seed-0" / "twn.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        seen: list[bool] = []
        fit = compare_methods.fit

        def watched(learner: Learner, *rest: Any) -> None:
            fit(learner, *rest)
            seen.append(all(module.training for module in learner.modules()))

        patch.setattr(compare_methods, "fit", watched)
        read = Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 0, distill=False)
        Comparison(random_data(), PLAN, tmp_path, quiet).run(recipe, 1, distill=False)
    assert {k: v for k, v in read.items() if k not in CIRCUMSTANCES} == {
        k: v for k, v in fresh.items() if k not in CIRCUMSTANCES
    }
    assert seen == [True, True, True]


def test_runs_repeat_bit_for_bit_and_seeds_differ(tmp_path: Path) -> None:
    recipe = choose(["ttq"])[0]
    results = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        Comparison(random_data(augment=shift(1)), PLAN, tmp_path / folder, quiet).run(recipe, seed, distill=True)
        results.append(torch.load(tmp_path / folder / f"seed-{seed}" / "float.pt", weights_only=True)["fc.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    a, b = (json.loads((tmp_path / f / "seed-0" / "ttq+kd.json").read_text()) for f in "ab")
    assert {k: v for k, v in a.items() if k not in CIRCUMSTANCES} == {
        k: v for k, v in b.items() if k not in CIRCUMSTANCES
    }


def test_distillation_brings_the_student_to_the_teacher(tmp_path: Path) -> None:
    """Labels are noise here, which only the teacher's opinion is not."""
    comparison = Comparison(random_data(), replace(PLAN, float_epochs=6, epochs=8), tmp_path, quiet)
    recipe = choose(["twn"])[0]
    kinds: dict[bool, Tensor] = {}
    for distill in (False, True):
        seen: list[nn.Module] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compare_methods, "accuracy", lambda net, part: seen.append(net) or 0.0)  # noqa: B023
            comparison.run(recipe, 0, distill)
        kinds[distill] = logits_of(seen[-1], comparison.data.test[0])
    teacher = logits_of(comparison.float_net(0), comparison.data.test[0])
    distance = {
        k: F.kl_div(F.log_softmax(v, 1), F.softmax(teacher, 1), reduction="batchmean") for k, v in kinds.items()
    }
    assert distance[True] < distance[False]


def run_file(folder: Path, name: str, seed: int, **values: Any) -> None:
    (folder / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
    common = {"recipe": name.removesuffix("+kd"), "seed": seed, "bytes": 1000, "adds": 10, "multiplies": 5}
    (folder / f"seed-{seed}" / f"{name}.json").write_text(json.dumps({**common, **values}))


SMALL = ("ec2t-entropy-0.9+kd", "ec2t-entropy-1+kd", "hestia+kd")


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, reached in ((0, 0.90), (1, 0.92)):
        run_file(tmp_path, "float", seed, accuracy=reached, bytes=9000)
        run_file(tmp_path, "twn", seed, accuracy=reached - 0.02, sparsity=0.4, entropy=1.5, bytes=1000)
    run_file(tmp_path, "twn-80", 0, accuracy=0.86, sparsity=0.7999, entropy=0.9, zeros=0.8, bytes=500)
    run_file(tmp_path, "twn-80+kd", 0, accuracy=0.899, sparsity=0.8, entropy=0.9, zeros=0.8, bytes=500)
    run_file(tmp_path, "multilevel-2-90", 1, accuracy=0.895, sparsity=0.9, entropy=0.9, zeros=0.9, bytes=750)
    run_file(tmp_path, "ec2t-entropy-0.9+kd", 0, accuracy=0.88, sparsity=0.85, entropy=0.4, bytes=500)
    run_file(tmp_path, "ec2t-entropy-1+kd", 0, accuracy=0.87, sparsity=0.85, entropy=0.4, bytes=400)
    run_file(tmp_path, "hestia+kd", 0, accuracy=0.84, sparsity=0.3, entropy=0.4, bytes=400)
    compare_report.report(tmp_path, "glyphs", ["multilevel-2-90", "twn", "twn-80"])
    rows = compare_report.rows_of(tmp_path, ["multilevel-2-90", "twn", "twn-80"])
    assert [row.name for row in rows] == ["float", "multilevel-2-90", "twn", "twn-80", "twn-80+kd", *SMALL]
    twn = rows[2]
    assert (twn.seeds, twn.accuracy, twn.lost) == (2, pytest.approx(89), pytest.approx(2))
    assert twn.spread == pytest.approx(np.std([88, 90], ddof=1))
    assert rows[1].lost == pytest.approx(2.5)  # against the float network of its own seed
    printed = capsys.readouterr().out
    assert "| twn | 2 | 89.00 ± 1.41 | 2.00 | 40.0 | 1.50 | 1.0 | 0.00 |" in printed
    assert "- reached: the best at 80% zeros within 0.5 points of float: twn-80+kd loses 0.10" in printed
    assert "- missed: the best at 90% zeros within 1.0 points of float: multilevel-2-90 loses 2.50" in printed
    assert "- not measured: the best at 95% zeros" in printed
    # Plain TWN loses 4 points at 500 bytes and 2 at 1000, and so 3 at 750; at 400 it loses 4 or more.
    against = " TWN at equal stored bytes"
    assert f"- reached: several levels better than plain{against}: multilevel-2-90 +0.50" in printed
    assert f"- not measured: entropy-constrained better than plain{against}" in printed
    assert (
        f"- reached: distilled better than plain{against}: twn-80+kd +3.90, {SMALL[0]} +2.00, {SMALL[1]} +1.00\n"
        in printed
    )
    assert f"- not measured: several levels better than distilled{against}" in printed
    assert f"- missed: entropy-constrained better than distilled{against}: {SMALL[0]} -1.90\n" in printed
    assert (tmp_path / "table.md").read_text() == printed.removesuffix("\n")
    assert json.loads((tmp_path / "summary.json").read_text())["rows"][0]["name"] == "float"
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_a_ranking_has_a_paired_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floats, better, worse = (0.90, 0.92, 0.91), (0.89, 0.90, 0.89), (0.88, 0.895, 0.87)
    for seed in range(3):
        run_file(tmp_path, "float", seed, accuracy=0.5)
        run_file(tmp_path, "float-longer", seed, accuracy=floats[seed])
        for name, reached in (("twn-90", worse), ("multilevel-2-90", better)):
            run_file(tmp_path, name, seed, accuracy=reached[seed], sparsity=0.9, entropy=0.5, zeros=0.9)
    run_file(tmp_path, "ttq-90", 0, accuracy=0.95, sparsity=0.9, entropy=0.5, zeros=0.9)  # of one seed, not ranked
    run_file(tmp_path, "ttq-90", 3, accuracy=0.95, sparsity=0.9, entropy=0.5, zeros=0.9)  # no float network
    compare_report.report(tmp_path, "fashion-mnist", ["twn-90", "multilevel-2-90", "ttq-90", "float-longer"])
    printed = capsys.readouterr().out
    assert "| lost to float-longer, points |" in printed
    assert "| twn-90 | 3 | 88.17 ± 1.26 | 2.83 |" in printed
    assert "| ttq-90 | 1 |" in printed
    p = ttest_rel(better, worse).pvalue
    assert (
        "- at about 90% zeros multilevel-2-90 loses least (1.67), twn-90 is next (2.83); "
        f"difference 1.17 ± 0.76 over 3 seeds, p = {p:.3f}\n" in printed
    )


def test_plain_twn_is_neither_taught_nor_grouped() -> None:
    def row(name: str, size: float, lost: float) -> compare_report.Row:
        return compare_report.Row(name, 0.9, 1, 90.0, None, lost, 0.9, 0.5, size, 1.0)

    rows = [row("twn-90", 1000, 3.0), row("twn-80", 2000, 1.0), row("multilevel-2-90", 1500, 1.5)]
    rows += [row("twn-90-teacher-0.5", 1000, 2.5), row("twn-4x1-90", 800, 1.0), row("twn-90-a8", 1000, 2.0)]
    lines = compare_report.check(rows, "fashion-mnist")
    against = " TWN at equal stored bytes: "
    assert f"- reached: several levels better than plain{against}multilevel-2-90 +0.50" in lines
    assert f"- reached: distilled better than plain{against}twn-90-teacher-0.5 +0.50" in lines


def test_the_paired_test_of_few_seeds() -> None:
    assert compare_report.paired({0: 1.0}, {0: 2.0}) == "one seed says nothing about the order"
    assert compare_report.paired({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}) == "the same difference in all 2 seeds"


def test_aims_of_the_digits_name_every_miss() -> None:
    def row(name: str, zeros: float | None, lost: float) -> compare_report.Row:
        return compare_report.Row(name, zeros, 1, 99 - lost, None, lost, zeros or 0.3, 1.0, 1.0, 1.0)

    rows = [row("a", None, 0.4), row("b", None, 0.6), row("c", None, 0.7), row("d", 0.95, 0.5), row("e", 0.9, 9.0)]
    assert compare_report.check(rows, "digits") == [
        "- missed: every recipe at its own zeros within 0.5 points of float: c loses 0.70",
        "- missed, too: b loses 0.60",
        "- reached: every recipe at 95% zeros within 0.5 points of float: d loses 0.50",
        "- not measured: every recipe at 98% zeros within 1.5 points of float",
    ]


def test_runs_that_do_not_say_their_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"adds": 1e6, "multiplies": 0, "sparsity": 0.8, "entropy": 0.9, "zeros": 0.8}
    for seed, sizes in enumerate(({"twn-80": 1000, "multilevel-2-80": 1000}, {"twn-80": 2000, "ec2t-entropy-1": None})):
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        network = {"adds": 1e6, "multiplies": 0, "bytes": 9000}
        (folder / "float.json").write_text(json.dumps({"seed": seed, "accuracy": 0.9, **network}))
        for name, size in {"seq": None, **sizes}.items():
            run = {"seed": seed, "accuracy": 0.85, **common} | ({} if size is None else {"bytes": size})
            (folder / f"{name}.json").write_text(json.dumps(run))
    compare_report.report(tmp_path, "glyphs", ["seq", "twn-80", "multilevel-2-80", "ec2t-entropy-1"])
    printed = capsys.readouterr().out
    assert "| twn-80 | 2 | 85.00 ± 0.00 | 5.00 | 80.0 | 0.90 | 1.5 | 1.00 |" in printed
    assert "| seq | 2 | 85.00 ± 0.00 | 5.00 | 80.0 | 0.90 |  | 1.00 |" in printed
    assert "- not measured: entropy-constrained better than plain TWN" in printed


def test_interpolation() -> None:
    points = [(1.0, 10.0), (3.0, 20.0), (4.0, 22.0)]
    for at in np.linspace(1, 4, 13):
        expected = np.interp(at, *zip(*points, strict=True))
        assert compare_report.interpolate(points, float(at)) == pytest.approx(float(expected))
    for outside in (0.9, 4.1):
        assert compare_report.interpolate(points, outside) is None
    assert compare_report.interpolate([(1.0, 10.0)], 1.0) == 10
    assert compare_report.interpolate([], 1.0) is None


def test_report_without_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing was trained yet"):
        compare_report.report(tmp_path, "digits", [])


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare_data, "digits", random_data)
    monkeypatch.setattr(compare_methods, "PLANS", {**compare_methods.PLANS, "digits": PLAN})
    common = ["--data", "digits", "--output", str(tmp_path)]
    compare_methods.main([*common, "--seeds", "0,1", "--recipes", "twn,twn-80", "--distill"])
    printed = capsys.readouterr().out
    assert printed.index("seed 0 twn-80+kd") < printed.index("seed 1 twn+kd")
    assert "| twn-80+kd | 2 |" in printed
    compare_methods.main([*common, "--report"])
    assert "| twn-80+kd | 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nothing is downloaded"):
        compare_methods.main(["--data", "cifar10", "--output", str(tmp_path)])


def test_codes_stay_ternary_after_a_run(tmp_path: Path) -> None:
    """What is measured is what the network computes with: three values a layer."""
    comparison = Comparison(random_data(), PLAN, tmp_path, quiet)
    seen: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_methods, "accuracy", lambda net, part: seen.append(net) or 0.0)
        comparison.run(choose(["twn-80"])[0], 0, distill=False)
    layers = ternary_layers(seen[-1])
    assert len(layers) == 6
    for layer in layers.values():
        assert len(effective_weight(layer).unique()) <= 3
        assert TernaryTensor.from_values(effective_weight(layer)) is not None


@pytest.mark.parametrize("name", ["twn-4x1-80", "twn-4x1-80-at-once", "twn-4x1-80-penalty-0.1"])
def test_groups_of_output_channels_share_their_zeros(name: str, tmp_path: Path) -> None:
    comparison = Comparison(random_data(), PLAN, tmp_path, quiet)
    seen: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_methods, "accuracy", lambda net, part: seen.append(net) or 0.0)
        result = comparison.run(choose([name])[0], 0, distill=False)
    assert result["sparsity"] == pytest.approx(0.8, abs=0.01)
    for layer in ternary_layers(seen[-1]).values():
        weight = effective_weight(layer)
        alive = (weight != 0).reshape(len(weight) // 4, 4, *weight.shape[1:]).sum(1)
        assert set(alive.unique().tolist()) <= {0, 4}
