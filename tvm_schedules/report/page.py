"""Runs as one HTML page that stands alone: no file beside it, nothing fetched, no script but its own."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from tvm_schedules.common.files import write_file
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TernError
from tvm_schedules.report.headline import headline, metrics
from tvm_schedules.report.run import Run

EPOCHS = 200
"""Epochs of a longer training are thinned to as many."""


def write_page(runs: Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Write the page of :func:`page`.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        OutputError: It cannot be written.
        TernError: What a run was read from is damaged.
    """
    return write_file(path, page(runs))


def page(runs: Sequence[Run]) -> str:
    """The page, as HTML.

    Args:
        runs: What it shows; of several it shows a comparison first.

    Raises:
        ValueError: No runs.
        TernError: What a run was read from is damaged.
    """
    if not runs:
        raise ValueError("runs must be one or several, got none")
    shown = []
    for run in runs:
        with reading(f"what is known of {run.name}", TernError):
            shown.append(_finite(_shown(run)))
    created = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    title = f"{', '.join(run.name for run in runs[:3])}{' and others' if len(runs) > 3 else ''}: compression report"
    # The library asks developer tools for a file that is not there.
    chart = re.sub(r"^//# sourceMappingURL=.*$", "", _asset("chart.umd.min.js"), flags=re.MULTILINE)
    return Template(_asset("page.html")).substitute(
        title=_escaped(title),
        css=_asset("page.css"),
        chart=chart,
        script="\n".join(_asset(name) for name in ("tools.js", "charts.js", "page.js")),
        data=_json({"created": created, "runs": shown}),
    )


def _shown(run: Run) -> dict[str, Any]:
    """What the page's script reads of a run."""
    entry = {**run.to_dict(), "headline": asdict(headline(run)), "metrics": metrics(run.training)}
    if run.training:
        entry["training"] = {**run.training, "epochs": thinned(run.training["epochs"], EPOCHS)}
    return entry


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly over all, the first and the last among them.

    Example:
        >>> thinned(range(10), 4), thinned("abc", 4)
        ([0, 3, 6, 9], ['a', 'b', 'c'])
    """
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _asset(name: str) -> str:
    return resources.files("tvm_schedules.report").joinpath("assets", name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """The value with five significant digits, and None for what is no number; a page needs no more."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
