"""The commands of the guides for boards exist with the options that the guides give them."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from tern_lightning.cli import arguments
from tvm_schedules.cli import bench, board
from tvm_schedules.targets import registry as targets

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PARSERS = {"tern-export": arguments.make_parser, "tern-bench": bench.parser, "tern-board": board.parser}


def commands() -> list[str]:
    found = []
    for guide in ("edge/README.md", "cpp/README.md"):
        for line in (EXAMPLES / guide).read_text().splitlines():
            found += [match[0] for match in re.findall(r"((tern-(?:export|bench|board)) [^`#\n]*[^`# \n])", line)]
    return [command for command in found if not re.match(r"tern-\w+ (checks|--rpc$)", command)]


@pytest.mark.parametrize("command", commands())
def test_command_is_understood(command: str) -> None:
    name, *arguments = shlex.split(command)
    made: argparse.ArgumentParser = PARSERS[name]()
    try:
        options = made.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"not understood: {command}")
    if name == "tern-export":
        assert targets.resolve(options.tvm_target).tvm["kind"] in ("llvm", "cuda", "opencl")


def test_there_are_commands() -> None:
    assert {shlex.split(command)[0] for command in commands()} == set(PARSERS)
    assert len(commands()) > 6
