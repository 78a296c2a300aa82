"""Estimates of modules, and ``tern-estimate`` of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import tern_lightning
from tern_lightning.cli.estimate import main
from tvm_schedules.estimate.estimate import estimate as of_file


class Small(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU())
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def test_a_module_is_estimated_as_its_onnx_file(tmp_path: Path) -> None:
    module = Small().eval()
    said = tern_lightning.estimate(module, ("pi4", "c"), input_shape=(1, 3, 12, 12))
    file = tern_lightning.export(module, tmp_path / "out", onnx_only=True, input_shape=(1, 3, 12, 12)).onnx
    assert [one.to_dict() for one in said] == [one.to_dict() for one in of_file(file, ("pi4", "c"))]
    assert {"body.0", "body.2", "head"} <= {step.name for step in said[0].steps}


def test_the_command_reads_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pt"
    torch.save(Small(12).state_dict(), path)
    arguments = [str(path), "--targets", "pi4", "--json", "--input-shape", "1,3,12,12", "--hparams", "width=12"]
    assert main([*arguments, "--model", f"{__name__}:Small"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said["ram"]["inputs"] == 4 * 3 * 12 * 12
    assert main(arguments) == 1
    assert "--model pkg.mod:Class is needed" in capsys.readouterr().err
    assert main([str(tmp_path / "no.ckpt")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main([str(path), "--model", "no.such:Net"]) == 1
    assert "importing 'no.such' fails" in capsys.readouterr().err
