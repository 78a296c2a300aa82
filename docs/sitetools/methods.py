"""A page for every method: formula, picture, options, published trainings, what was measured. Made of the code."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sitetools.links import DOCS, ROOT, write_changed
from tern_lightning import functional, preset, presets
from tern_lightning.quantizers import Quantizer, get_quantizer, quantizer_names

PAGES = DOCS / "generated" / "methods"
MEASURED = ROOT / "benchmarks" / "methods" / "results" / "glyphs-resnet20-s2" / "summary.json"
NAMES = {
    "absmean": "BitNet b1.58, absolute mean",
    "admm": "ADMM, the closest ternary weight",
    "ec2t": "Entropy-constrained trained ternarization",
    "hestia": "Hestia, an annealed softmax",
    "multilevel": "Sums of several ternary terms",
    "seq": "ParetoQ, thirds of a trained range",
    "sherry": "Sherry, three of every four",
    "sws": "Statistical weight scaling",
    "tequila": "Tequila, a bias from the dead zone",
    "tga": "Truncated Gaussian approximation",
    "ttq": "Trained ternary quantization",
    "twn": "Ternary weight networks",
}
_FUNCTION = re.compile(r":func:`~?tern_lightning\.functional\.(?:\w+\.)?(\w+)`")


def title(name: str) -> str:
    """What a method is called in headings."""
    return NAMES[name]


def formulas(quantizer: type[Quantizer]) -> dict[str, Callable[..., Any]]:
    """The functions of formulas that the docstrings of a quantizer name, in their order."""
    text = f"{inspect.getdoc(quantizer)} {inspect.getdoc(quantizer.ternary)}"
    public = {name: getattr(functional, name) for name in functional.__all__}
    known = {**vars(inspect.getmodule(quantizer)), **public}
    found = {name: known[name] for name in _FUNCTION.findall(text) if inspect.isfunction(known.get(name))}
    for function in list(found.values()):  # a formula may leave its equation to another one
        for name in re.findall(r"see :func:`(\w+)`", description(function)):
            found[name] = public[name]
    return found


def description(function: Callable[..., Any]) -> str:
    """The docstring of a formula without arguments and examples, which the reference has."""
    return re.split(r"\n(?:Args|Example|Returns|Raises):", inspect.getdoc(function) or "")[0].strip()


def _rst(text: str) -> list[str]:
    return ["```{eval-rst}", *text.splitlines(), "```", ""]


def _presets(name: str) -> list[str]:
    """Published trainings that use a method."""
    lines = []
    for chosen in (preset(each) for each in presets()):
        if chosen.method != name:
            continue
        options = ", ".join(f"`{key}={value!r}`" for key, value in chosen.options.items()) or "the defaults"
        lines += [f"**`{chosen.name}`**: {chosen.paper}. Options: {options}."]
        if chosen.companions:
            lines += ["It comes with " + ", ".join(f"`{other}`" for other, _ in chosen.companions) + "."]
        facts = {
            one.name.replace("_", " "): getattr(chosen.recipe, one.name)
            for one in dataclasses.fields(chosen.recipe)
            if getattr(chosen.recipe, one.name) is not None
        }
        if facts:
            lines += ["", "| | |", "|---|---|"]
            lines += [f"| {key} | {_value(value)} |" for key, value in facts.items()]
        lines += ["", *(f"- {result}" for result in chosen.results), ""]
        lines += [chosen.notes, ""] if chosen.notes else []
    return lines


def published() -> str:
    """A table of the accuracies that are published for presets, and a list of the presets that have none."""
    lines = ["| preset | published | float | where |", "|---|---|---|---|"]
    every = [preset(each) for each in presets()]
    for one in every:
        for result in one.results:
            own = _percent(result.accuracy) if result.accuracy is not None else f"{-(result.lost or 0):+.2f} points"
            other = "" if result.float_accuracy is None else f" {_percent(result.float_accuracy)}"
            lines.append(f"| `{one.name}` | {result.network}, {result.data}: {own} |{other} | {result.where} |")
    rest = ", ".join(f"`{one.name}`" for one in every if not one.results)
    return "\n".join([*lines, "", f"For the other presets no accuracy is published, or known to us: {rest}.", ""])


def _percent(share: float) -> str:
    """A figure that stays on one line."""
    return f"{share:.2f}\N{NO-BREAK SPACE}%"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_value(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def measured() -> dict[str, dict[str, Any]]:
    """What a comparison found, by the name of its recipe."""
    return {row["name"]: row for row in json.loads(MEASURED.read_text())["rows"]}


def _result(name: str) -> list[str]:
    rows, float_row = measured(), measured()["float"]
    own = rows.get("multilevel-2" if name == "multilevel" else name)
    if own is None:
        return []
    return [
        "## Measured",
        "",
        f"ResNet-20 on drawn characters of 62 classes, {own['seeds']} seeds: {own['accuracy']:.2f} % correct, "
        f"{own['lost']:.2f} points less than the float network ({float_row['accuracy']:.2f} %), with "
        f"{own['sparsity']:.0%} zeros and default options. [All methods](../../benchmarks/methods.md), "
        "[what was aimed at](../../benchmarks/methods-aims.md).",
        "",
    ]


def page(name: str) -> str:
    """The page of a method."""
    quantizer = type(get_quantizer(name))
    summary = (inspect.getdoc(quantizer) or "").split("\n\n")[0]
    lines = [f"# `{name}`: {title(name)}", "", *_rst(summary)]
    lines += ["```python", "from tern_lightning import TernaryCallback", "", f'TernaryCallback("{name}")', "```", ""]
    lines += [f"![weights in, ternary weights out]({name}.svg)", ""]
    lines += [
        "The picture has 4096 Gaussian weights. On the left is what becomes of each, in the middle how many there are "
        "of each value, and on the right the factor by which a gradient at the ternary weight reaches the latent one. "
        + (
            "Methods that change in the course of training are shown half way." if get_quantizer(name).scheduled else ""
        ),
        "",
        "## Formula",
        "",
    ]
    for formula, function in formulas(quantizer).items():
        lines += _rst(f".. currentmodule:: tern_lightning.functional\n\n{description(function)}")
        if formula in functional.__all__:
            lines += _rst(f"As a function: :func:`tern_lightning.functional.{formula}`.")
    lines += ["## Options", ""]
    lines += [f'Options go into `TernaryCallback("{name}", options={{...}})` or into a rule.', ""]
    lines += _rst(f".. autoclass:: {quantizer.__module__}.{quantizer.__qualname__}\n   :no-index:")
    own = _presets(name)
    if own:
        lines += ["## Published trainings", "", '`TernaryCallback.from_preset("...")` takes one by its name.', "", *own]
    lines += _result(name)
    return "\n".join(lines)


def overview() -> str:
    """A table of all methods, with links to their code, which are links to their pages in the site."""
    rows = measured()
    lines = ["| | | levels | zeros | lost, points |", "|---|---|---|---:|---:|"]
    for name in quantizer_names():
        quantizer = get_quantizer(name)
        row = rows.get("multilevel-2" if name == "multilevel" else name)
        kind = "one" if quantizer.symmetric else "one for each sign"
        kind = "several terms" if name == "multilevel" else kind
        numbers = f"{row['sparsity']:.0%} | {row['lost']:.2f}" if row else " | "
        lines += [f"| [`{name}`](../tern_lightning/quantizers/{name}.py) | {title(name)} | {kind} | {numbers} |"]
    return "\n".join(lines) + "\n"


def draw(name: str, path: Path) -> None:
    """Plot what a method does with Gaussian weights, and what gradient it passes on."""
    import matplotlib
    import torch

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    quantizer = get_quantizer(name)
    quantizer.begin(weight.detach())
    quantizer.progress.fill_(0.5)
    hard = quantizer.ternary(weight.detach()).dequantize()
    soft = quantizer.in_training(weight)
    soft.sum().backward()
    order = weight.detach().flatten().argsort()
    x, gradient = weight.detach().flatten()[order], weight.grad.flatten()[order]  # type: ignore[union-attr]

    with plt.rc_context({"svg.hashsalt": name, "font.size": 9, "svg.fonttype": "path"}):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 2.9))
        if not torch.equal(hard, soft.detach()):
            left.plot(x, soft.detach().flatten()[order], ".", ms=2, color="tab:orange", label="in training")
        left.plot(x, hard.flatten()[order], ".", ms=2, color="tab:blue", label="ternary")
        left.axline((0, 0), slope=1, color="0.8", lw=1, zorder=0)
        left.set(xlabel="latent weight", ylabel="value", title="weights in, values out")
        left.legend(loc="upper left", markerscale=4, frameon=False)
        middle.hist(x.numpy(), bins=61, color="0.8")
        twin = middle.twinx()
        levels, counts = hard.unique(return_counts=True)
        twin.bar(levels.numpy(), counts.numpy() / hard.numel(), width=0.12, color="tab:blue")
        twin.set(ylim=(0, 1))
        middle.set(yticks=[], xlabel="value", title=f"{float((hard == 0).float().mean()):.0%} zeros")
        right.plot(x, gradient, ".", ms=2, color="tab:green")
        right.axhline(0, color="0.8", lw=1, zorder=0)
        right.set(xlabel="latent weight", title="gradient passed on", ylim=(min(0, float(gradient.min())) - 0.1, None))
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def write_pages() -> None:
    """Write pages and pictures."""
    for name in quantizer_names():
        write_changed(PAGES / f"{name}.md", page(name))
        draw(name, PAGES / f"{name}.svg")
