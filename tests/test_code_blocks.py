"""The code of documents: Python blocks run from top to bottom, commands have the options that they are given.

A block after ``<!--- skip: next -->`` needs what a test does not have (a board, a long training); it is compiled only.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sybil = pytest.importorskip("sybil")

from sybil import Document, Example, Region, Sybil  # noqa: E402
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser  # noqa: E402

from tern_lightning.cli import estimate  # noqa: E402
from tern_lightning.cli.arguments import make_parser  # noqa: E402
from tvm_schedules.cli import bench, board, inspect, profile, report, suite  # noqa: E402

ROOT = Path(__file__).parents[1]
MADE = {".venv", ".git", "runs", "build", "_build", "generated"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not MADE & set(path.parts))
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
PARSERS = {
    "tern-export": make_parser,
    "tern-bench": bench.parser,
    "tern-board": board.parser,
    "tern-estimate": estimate.make_parser,
    "tern-inspect": inspect.parser,
    "tern-report": report.parser,
}
LINE = re.compile(r"^(?: {4}|)(?:\w+\$ )?(tern-(?:export|bench|board|estimate|inspect|report) [^\n#]*)", re.MULTILINE)
MENTION = re.compile(r"`(tern-(?:export|bench|board|estimate|inspect|report)) ([^`\n]*--[^`\n]*)`")


def options_of(name: str) -> set[str]:
    """Every option of a command, those of its subcommands, of the suite and of profile tables included."""
    parsers: list[argparse.ArgumentParser] = [PARSERS[name]()]
    if name == "tern-bench":
        parsers += [suite.parser(), profile.parser()]
    found = {"--suite"} if name == "tern-bench" else set()
    while parsers:
        for action in parsers.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
    return found


def understood(example: Example) -> None:
    """Parse a whole command line as the command would."""
    name, *arguments = shlex.split(example.parsed)
    made = profile.parser() if "--profile-table" in arguments else PARSERS[name]()
    try:
        made.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"not understood: {example.parsed}")


def command_lines(document: Document) -> Iterator[Region]:
    """Commands that stand on a line of their own in a block of code."""
    for match in LINE.finditer(document.text):
        before = document.text[: match.start()]
        fenced = before.count("\n```") % 2 == 1
        if fenced or match[0].startswith("    "):
            yield Region(match.start(), match.end(), match[1], understood)


PYTHON = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], path=str(ROOT), pattern="*.md")
SHELL = Sybil(parsers=[command_lines], path=str(ROOT), pattern="*.md")
BLOCKS = Sybil(parsers=[CodeBlockParser("python", lambda example: None)], path=str(ROOT), pattern="*.md")


def lightning_snippet() -> dict[str, Any]:
    """What the first page supposes to be there: a module, its data and some images."""
    import lightning as L
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class MyLightningModule(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
            self.layers = nn.Sequential(*layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    images = torch.rand(32, 1, 8, 8)
    data = DataLoader(TensorDataset(images, torch.arange(32) % 3), batch_size=16)
    return {"MyLightningModule": MyLightningModule, "data": data, "images": images.numpy()}


SUPPOSED = {"README.md": lightning_snippet, "docs/index.md": lightning_snippet}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if "```python" in p.read_text()], ids=lambda p: p.stem)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tvm")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    document = PYTHON.parse(path)
    document.namespace.update(SUPPOSED.get(path.relative_to(ROOT).as_posix(), dict)())
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_python_blocks_compile(path: Path) -> None:
    for example in BLOCKS.parse(path).examples():
        compile(str(example.parsed), path.name, "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_commands_are_understood(path: Path) -> None:
    for example in SHELL.parse(path).examples():
        example.evaluate()


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_options_that_sentences_name_exist(path: Path) -> None:
    for name, arguments in MENTION.findall(path.read_text()):
        named = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", arguments))
        assert named <= options_of(name), (name, named - options_of(name))


def test_there_is_something_to_test() -> None:
    shell = [example.parsed for path in DOCUMENTS for example in SHELL.parse(path).examples()]
    assert {shlex.split(command)[0] for command in shell} == set(PARSERS)
    assert len(shell) > 20
    assert sum(len(list(BLOCKS.parse(path).examples())) for path in DOCUMENTS) > 15


def test_a_wrong_option_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong.md").write_text("Text.\n\n    ws$ tern-bench out/ --nothing 1\n")
    (example,) = SHELL.parse(tmp_path / "wrong.md").examples()
    with pytest.raises(pytest.fail.Exception, match="not understood"):
        example.evaluate()


def test_a_wrong_block_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong.md").write_text("Text.\n\n```python\nassert 1 + 1 == 3\n```\n")
    (example,) = PYTHON.parse(tmp_path / "wrong.md").examples()
    with pytest.raises(AssertionError):
        example.evaluate()
