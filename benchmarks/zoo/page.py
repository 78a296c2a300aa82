"""The page about the zoo, made of what ``python -m benchmarks.zoo`` and ``python -m benchmarks.zoo.nodes`` wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

ABOUT = """\
Networks that were not written for this package, built from configurations with random weights (80 % zeros in every
ternary channel, the first and the last layer dense), 8-bit activations, and trained ONNX files from other packages,
which stay as they are. Each is exported and held against onnxruntime. A ratio is onnxruntime's time divided by ours on
one thread, medians of interleaved rounds: more is better for us, 1 is a draw. `int8` is onnxruntime's own static
quantization. Most configurations are small, since it is the architecture that is tried; small networks are bound by
the cost of a call, which flatters us. Bold networks have the size that people use. Other programs ran on the machine at
the same time, which makes exports longer and ratios uncertain. `vectors` are those of the CPU that a row was timed on:
with AVX-512 VNNI a dot product of bytes is one instruction, with AVX2 it is several.
"""

RESULTS = {
    "ok": "compiled and verified",
    "lowered": "written as ONNX files that agree with torch and lowered to kernels, but not compiled in this run",
    "refused": "refused with a reason",
    "wrong": "differs too much from onnxruntime, and was not written",
    "slow": "not done in time",
    "failed": "an error of the package",
    "crashed": "ended its process",
}


def zoo(data: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    """The page's text.

    Args:
        data: Of the networks: ``machine``, ``when`` and ``rows``.
        nodes: Of ONNX' own tests: ``counts``, ``refused`` by operator, and ``other``.
    """
    rows = data["rows"].values()
    machine = data["machine"]
    counts = Counter(row["result"] for row in rows)
    lines = ["# The zoo: networks of others", "", *ABOUT.splitlines(), ""]
    lines += [
        f"{machine['cores']} cores, {machine['cpu']}, {data['when']}. Measure again: "
        "`python -m benchmarks.zoo --output benchmarks/zoo/networks.json`.",
        "",
        f"Of {len(rows)} networks: "
        + "; ".join(f"{counts[one]} {text}" for one, text in RESULTS.items() if counts[one])
        + ".",
        "",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        lines += [f"## {kind[0].upper()}{kind[1:]}", "", *_table([r for r in rows if r["kind"] == kind]), ""]
    refused = [row for row in rows if row["result"] not in ("ok", "lowered")]
    if refused:
        lines += ["## What does not come through", ""]
        lines += [f"- `{row['name']}`, {row['result']}: {_short(row)}" for row in refused]
        lines += [""]
    return "\n".join([*lines, *_operators(nodes)])


def _table(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "| network | result | export, s | kB | fp32 | int8 | aim | vectors |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for row in rows:
        ratios = [row.get("ratios", {}).get(f"onnxruntime {form}") for form in ("fp32", "int8")]
        cells = [f"**{row['name']}**" if row.get("aim") else row["name"], row["result"]]
        cells += [f"{row['seconds']:.0f}" if "seconds" in row else ""]
        cells += [f"{row['bytes'] / 1e3:,.0f}" if "bytes" in row else ""]
        cells += [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
        cells += [f"{row['aim']:g} {row['rival']}" if row.get("aim") else "", row.get("vectors", "")]
        yield "| " + " | ".join(cells) + " |"


def _short(row: Mapping[str, Any]) -> str:
    text = " ".join(str(row.get("error") or "").split())
    return text if len(text) <= 240 else text[:237] + "..."


def _operators(nodes: Mapping[str, Any]) -> Iterator[str]:
    counts, refused = nodes["counts"], nodes["refused"]
    tried = sum(counts.values()) - counts.get("left out", 0)
    yield "## ONNX' own tests of operators"
    yield ""
    yield (
        f"Of {tried:,} tests that onnxruntime passes and that have tensors only, {counts.get('passed', 0):,} pass as "
        f"they are, {counts.get('constant', 0):,} once all inputs but the first are constants (as shapes and axes "
        f"are in networks), and {counts.get('refused', 0):,} are refused with the operator's or a tensor's name. "
        f"{sum(counts.get(one, 0) for one in ('wrong', 'failed', 'crashed', 'unnamed')):,} do otherwise. Again: "
        "`python -m benchmarks.zoo.nodes --output benchmarks/zoo/nodes.json`."
    )
    yield ""
    if refused:
        names = ", ".join(f"{name} {count}" for name, count in sorted(refused.items(), key=lambda item: -item[1]))
        yield f"Refused by operator: {names}."
        yield ""
    for name, (verdict, reason) in nodes["other"].items():
        yield f"- `{name}`, {verdict}: {reason[:200]}"
