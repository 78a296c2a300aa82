"""Texts of the pages that are made of ``benchmarks/measured``: digits, verification, times, shared zeros and ARM.

:mod:`benchmarks.pages` writes them. A JSON file there is what a command wrote, with machine, date and command, except
for ``milliseconds.json`` and ``training-step.json``, which keep what was printed.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm_schedules.common.files import write_file

MEASURED = Path(__file__).parent / "measured"
NETWORKS = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "resnet18": "ResNet-18",
    "mobilenetv2": "MobileNetV2",
    "mlp": "MLP 784-1024-1024-10",
    "linear1024x1024": "linear 1024x1024",
    "linear4096x4096": "linear 4096x4096",
    "linear11008x4096": "linear 11008x4096",
}


def update(made: Mapping[Path, str], root: Path, check: bool) -> int:
    """Write texts whose files have others, or with ``check`` only say which; the exit status of doing so.

    Args:
        made: The texts by file.
        root: What the names that are printed are relative to.
        check: Write nothing; 1 where a file is out of date.
    """
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(root)}")
        if not check:
            write_file(path, made[path])
    return 1 if stale and check else 0


def read(name: str) -> Any:
    """A file of :data:`MEASURED`."""
    return json.loads((MEASURED / f"{name}.json").read_text())


def table_row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def paragraph(*sentences: str) -> list[str]:
    """A paragraph in lines, and an empty one after it."""
    return [*textwrap.wrap(" ".join(sentences), 130, break_long_words=False, break_on_hyphens=False), ""]


def _machine(data: Mapping[str, Any]) -> str:
    wide = "AVX-512 VNNI" if "avx512vnni" in data["features"] else data["architecture"]
    return f"{data['cores']} cores of an {data['cpu']} ({wide}), {data['system']}, Python {data['python']}"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def zeros_of(run: Mapping[str, Any]) -> float:
    """Share of zeros among all ternary weights of a run of ``examples.digits``."""
    layers = run["exports"]["host"]["layers"].values()
    return float(sum(one["zeros"] * one["weights"] for one in layers) / sum(one["weights"] for one in layers))


def engines_of(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What every engine took in a run of ``examples.digits``, one thread, by its name."""
    (result,) = (one for one in run["bench"]["results"] if one["threads"] == 1)
    return {one["name"]: one for one in result["engines"]}


def digits(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The page about the example of ``make demo``, of what the example wrote as ``results.json`` at each setting."""
    first, files = runs[0], [run["bench"]["artifact"]["files"] for run in runs]
    commands = " and ".join(f"`{run['command']}`" for run in runs)
    zeros = [f"{_percent(zeros_of(run), 0)} zeros" for run in runs]
    lines = [
        "# Handwritten digits, from training to the library",
        "",
        *paragraph(
            f"Images of 8x8 pixels, {first['images']} held out, a network of {first['parameters'] / 1000:.0f} k",
            f"parameters, batch 1, one thread of {_machine(first['bench']['machine'])}. Speed differs from run to",
            f"run, so compare within a column. The commands were {commands} on {first['when'][:10]}; the first is",
            f"what `make demo` runs. The float32 network has {_percent(first['accuracy']['float'])}.",
        ),
        table_row("", *(cell for name in zeros for cell in (name, ""))),
        "|---|" + "---:|" * 2 * len(runs),
        table_row(
            "accuracy, ternary in torch / library",
            *(
                cell
                for run in runs
                for cell in (f"{_percent(run['accuracy']['ternary'])} / {_percent(run['accuracy']['exported'])}", "")
            ),
        ),
        table_row("", *(cell for _ in runs for cell in ("**bytes**", "**median us**"))),
    ]
    names = {
        "onnxruntime fp32": "onnxruntime float32",
        "onnxruntime int8": "onnxruntime int8",
        "onnxruntime 2-bit file": "onnxruntime, the 2-bit file",
        "tern": "**tern library** (code, weights, metadata)",
    }
    for name, title in names.items():
        found = [engines_of(run)[name] for run in runs]
        cells = [cell for one in found for cell in (f"{one['file_bytes']:,}", f"{1000 * one['median_ms']:.1f}")]
        lines.append(table_row(title, *(f"**{cell}**" if name == "tern" else cell for cell in cells)))
    ratios = (
        cell
        for run in runs
        for cell in (
            "",
            " / ".join(f"{engines_of(run)[name]['ratio']:.2f}" for name in ("onnxruntime fp32", "onnxruntime int8")),
        )
    )
    stored = " and ".join(f"{one['weights.npz']:,}" for one in files)
    lines += [
        table_row("float32 / int8 time over tern's", *ratios),
        "",
        *paragraph(
            f"Of the library {files[0]['model.so']:,} bytes are code, which does not grow with the weights. The file",
            f"of weights takes {stored} bytes; in float32 the {first['parameters']:,} parameters take",
            f"{4 * first['parameters']:,}.",
        ),
    ]
    return lines


def verification(data: Mapping[str, Any]) -> list[str]:
    """The page about whole networks, of what ``benchmarks.verify_models --json`` wrote for several shares of zeros."""
    rows = data["rows"]
    main = [row for row in rows if row["zeros"] == 0.8]
    sizes = sorted((row["zeros"], row["file_bytes"]) for row in rows if row["name"] == "resnet18")
    lines = [
        "# Libraries against onnxruntime",
        "",
        *paragraph(
            "Networks with random weights, 80 % of them zero, and 8-bit activations are compared with onnxruntime on",
            f"{main[0]['inputs']} random inputs: `{data['command']}`, {data['when'][:10]},",
            f"{_machine(data['machine'])}.",
        ),
        table_row(
            "",
            "top-1 equal",
            "onnxruntime with itself",
            "largest difference of a logit",
            "8-bit tensors",
            "largest difference, layer by layer",
            "what a device loads, bytes",
        ),
        "|---|" + "---:|" * 6,
    ]
    for row in main:
        unit = "step" if row["steps"] == 1 else "steps"
        lines.append(
            table_row(
                NETWORKS[row["name"]],
                f"{row['equal']} / {row['inputs']}",
                f"{row['itself']} / {row['inputs']}",
                f"{100 * row['relative']:.1f} %",
                str(row["stages"]),
                f"{row['steps']} {unit}, in {row['share']:.0e} of a tensor",
                f"{row['file_bytes']:,}",
            )
        )
    lines += [
        "",
        *paragraph(
            "What a device loads is code, weights and metadata. Zeros show in it: ResNet-18 takes",
            ", ".join(f"{size / 1e6:.2f} MB at {_percent(zeros, 0)}" for zeros, size in sizes),
            "zeros (`--zeros`), and 46.8 MB in float32.",
        ),
        *paragraph(
            "Layer by layer means: every 8-bit tensor against onnxruntime's, computed from the library's 8-bit",
            "tensors before it. Both sides sum integers exactly, but a value on the edge between two steps may be",
            "rounded either way, and the layers after it carry that on. Hence the differences of logits. onnxruntime",
            "has them against itself too, with its optimizations and without; the second column counts the inputs for",
            "which it gives the same class both times.",
        ),
    ]
    return lines


def milliseconds(data: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """The page about times.

    Args:
        data: ``milliseconds.json``.
        baseline: That of the Zen 5, which has the ratios of the same runs.
    """
    return [*_times(data, baseline), *_steadiness(data), *_floats(data)]


def _times(data: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "# CPUs in milliseconds, and how steady they are",
        "",
        *paragraph(
            "Each other engine is at its best in 8 bits, DeepSparse also in float at the same zeros.",
            f"`{data['command']}` measured them in turn on two cores of an AMD EPYC (Zen 5, AVX-512 VNNI), batch 1,",
            f"medians, {data['when']}. Of each pair of numbers the first is for one thread and the second for two.",
            "Weights are random; the first layer and the classifier are dense. For the linear layers, one token, the",
            "best is onnxruntime's 2-bit MatMulNBits. Minima are what unshared cores give.",
        ),
        table_row("", "zeros", "tern, ms", "the best other engine, ms", "its time / tern's", "of minima"),
        "|---|" + "---:|" * 5,
    )
    for row in data["rows"]:
        ours = [baseline["entries"][f"{row['case']}/{n}"]["ratios"][f"tern {row['zeros']}%"] for n in (1, 2)]
        best = [one["peers"][one["best"]] for one in ours]
        yield table_row(
            NETWORKS[row["case"]],
            f"{row['zeros']} %",
            " / ".join(f"{ms:.3g}" for ms in row["ours_ms"]),
            f"{' / '.join(f'{ms:.3g}' for ms in row['best_ms'])} ({'; '.join(row['best'])})",
            " / ".join(f"**{one['ratio']:.2f}**" for one in best),
            " / ".join(f"{one['of_min']:.2f}" for one in best),
        )
    yield ""


def _steadiness(data: Mapping[str, Any]) -> Iterator[str]:
    shared, beside = data["resnet18_90_shared_core_ms"], data["resnet18_80_neighbor_ms"]
    yield from (
        "## How steady they are",
        "",
        *paragraph(
            "Speed comes and goes on these machines, as if the virtual CPUs were hyperthreads that the host moves.",
            f"Two processes that each run ResNet-18 with 90 % zeros on a CPU of their own take {shared['alone']} ms a",
            f"run for a while, then {shared['neighbor']} (a neighbor on the other half of the core), then both",
            f"{shared['each_other']} (each other). A neighbor makes sparse kernels slower by half (ResNet-18 at 80 %",
            f"zeros {beside['ours'][0]} to {beside['ours'][1]} ms) and OpenVINO by less ({beside['OpenVINO'][0]} to",
            f"{beside['OpenVINO'][1]}), presumably because sparse kernels load a vector for every addition and dense",
            "ones use a load several times. Ratios of ResNet-18 to the best other engine were in other hours:",
        ),
        table_row("", "50 % zeros", "80 %", "90 %"),
        "|---|" + "---:|" * 3,
        *(table_row(one["what"], *(_pair(pair) for pair in one["ratios"])) for one in data["resnet18_hours"]),
        "",
    )


def _floats(data: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## Float32 activations, 90 % zeros",
        "",
        *paragraph(
            "Beside DeepSparse, which uses zeros too; the [page of ratios](cpu.md) has engines with dense weights that",
            "are faster than it, and partly faster than tern. On the Zen 4 sparse layers of up to 16,000 codes are",
            "straight-line code; the figures of the Zen 5 are from before such code. ResNets are better served in 8",
            "bits.",
        ),
        table_row("", "Zen 4, ms", "Zen 5, ms", "Zen 5, DeepSparse's time / ours"),
        "|---|" + "---:|" * 3,
    )
    for zen4, zen5 in zip(data["zen4_float32_90"], data["zen5_float32_90"], strict=True):
        times = (" / ".join(f"{ms:.3g}" for ms in one["ours_ms"]) for one in (zen4, zen5))
        yield table_row(NETWORKS[zen4["case"]], *times, _pair(zen5["ratios"]))


def _pair(numbers: Sequence[float]) -> str:
    return " / ".join(f"{number:.2f}" for number in numbers)


def shared_zeros(data: Mapping[str, Any]) -> list[str]:
    """The page about zeros that output channels share, of what ``benchmarks.shared_zeros --json`` wrote."""
    avx2 = " with AVX2" if "avx2" in data["machine"]["features"] else ""
    lines = [
        "# Shared zeros: single layers",
        "",
        *paragraph(
            f"3x3 layers with random codes, on one thread of an {data['machine']['cpu']}{avx2},",
            f"{data['when'][:10]}: `{data['command']}`. Our kernels and onnxruntime with dense weights, of 8 bits or",
            f"floats as the activations are, took turns, and the least time of {data['turns']} turns counts.",
            '"Single" is the fastest of the kernels that compute channel by channel. "Chosen" is what a build takes.',
            '"Of ceiling" is how many of the weights\' codes the kernel of shared zeros adds a second, as a share of',
            "what this machine could do at best with a load for every addition. A pixel that is loaded once for",
            "several channels may exceed that. Halo is added up, too, and does not count: 14x14 pixels take seven",
            "vectors of 32 bytes, an eighth of which is halo. The [guide](../guides/shared-zeros.md) says how to train",
            "such weights.",
        ),
        table_row(
            "channels, image",
            "inputs",
            "zeros",
            "channels that share them",
            "single, us",
            "shared, us",
            "onnxruntime, us",
            "single / shared",
            "onnxruntime / shared",
            "of ceiling",
            "chosen",
        ),
        "|---|---|" + "---:|" * 8 + "---|",
    ]
    for row in data["rows"]:
        times = [row[f"{name}_us"] for name in ("single", "shared", "onnxruntime")]
        ratios = (f"{time / times[1]:.2f}" for time in (times[0], times[2]))
        layer = f"{row['channels']}, {row['size']}x{row['size']}"
        inputs = {"u8": "8 bits", "f32": "float"}[row["inputs"]]
        counts = (_percent(row["zeros"], 0), str(row["group"]))
        near = _percent(row["gadds"] / row["ceiling"], 0)
        numbers = (*(f"{time:.0f}" for time in times), *ratios, near)
        lines.append(table_row(layer, inputs, *counts, *numbers, f"`{row['chosen']}`"))
    return lines


STEP_NAMES = {"float": "the float step against itself", "frozen twn": "`twn`, frozen codes"}


def training_step(data: Mapping[str, Any]) -> list[str]:
    """The page about what a method adds to a training step.

    Args:
        data: ``training-step.json``.
    """
    networks = data["networks"]
    lines = [
        "# What a training step costs",
        "",
        *paragraph(
            f"Figures are per cent over the float network's step measured just before ({data['clock']}), medians of",
            f"{data['rounds']} rounds, on one thread of an {data['machine']}, {data['when']}: `{data['command']}`.",
            f"The machine had other work; {data['note']}",
        ),
        table_row("", *(f"{name}: time" for name in networks.values()), *("peak memory" for _ in networks)),
        "|---|" + "---:|" * 2 * len(networks),
    ]
    for name, percent in data["percent"].items():
        cells = [f"{one[network]:.1f}" for one in (percent, data["memory_percent"][name]) for network in networks]
        lines.append(table_row(STEP_NAMES.get(name, f"`{name}`"), *cells))
    lines += [
        "",
        *paragraph(
            "The activations of the transformer's step are small beside its weights, so that what a method keeps of",
            "a weight shows in its peak memory, with what it keeps from step to step. Activations in 8 bits are kept",
            "beside those that were rounded. Memory is from a run of one round.",
        ),
        "## Older figures, with other packages beside",
        "",
        *paragraph(
            "These were measured before methods became cheaper; the range is that of the float step against itself."
        ),
    ]
    older = data["older"]
    names = dict.fromkeys(name for one in older for name in one["percent"])
    heads = []
    for one in older:
        spread = " to ".join(str(value) for value in dict.fromkeys(one["float"]))
        heads.append(f"{one['network']}, {one['rounds']} rounds ({spread})")
    lines += [table_row("", *heads), "|---|" + "---:|" * len(older)]
    for name in names:
        lines.append(table_row(name, *(str(one["percent"].get(name, "")) for one in older)))
    return [*lines, ""]
