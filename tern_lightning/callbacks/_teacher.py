"""The network that another one learns from: where it comes from, and how it goes with a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from tern_lightning.checkpoint import load_module
from tern_lightning.nn.activation_quantizer import layer_quantizers
from tern_lightning.nn.copies import independent_copy
from tern_lightning.nn.learned_input import learned_hooks
from tern_lightning.nn.ternary_layers import ternary_layers
from tvm_schedules.common.files import user_path
from tvm_schedules.common.near import meant

TeacherSource: TypeAlias = nn.Module | str | os.PathLike[str] | None

COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")
"""What Lightning replaces in an instance whose class is compiled."""


class Teacher:
    """A teacher from the start of fit to its end.

    Args:
        source: A module, the path of a checkpoint, or None for a copy of the student as it is when fit starts.
        path: Path of the part of a module that is called with the inputs.
    """

    def __init__(self, source: TeacherSource, path: str) -> None:
        self.source, self.path = source, path
        self._whole: nn.Module | None = None
        self._digest: str | None = None

    @property
    def part(self) -> nn.Module:
        """What is called with the student's inputs."""
        assert self._whole is not None
        try:
            return self._whole.get_submodule(self.path)
        except AttributeError:  # a teacher of another class is called itself
            return self._whole

    def prepare(self, student: pl.LightningModule) -> None:
        """Take or read it before anything else of the run changes the student.

        Raises:
            MisconfigurationException: A copy is wanted of a student that is ternary, or rounds layer inputs, already.
            FileNotFoundError: There is no such checkpoint.
            CheckpointError: It does not fit the student's class.
        """
        part_of(student, self.path)
        if isinstance(self.source, nn.Module):
            self._whole = self.source
        elif self.source is not None:
            self._whole = load_module(user_path(self.source, "teacher"), type(student))
        else:
            if ternary_layers(student) or layer_quantizers(student) or learned_hooks(student):
                raise MisconfigurationException(
                    "teacher=None takes a copy of the float network, and this one is ternary or rounds its layer "
                    "inputs already; HINT: teacher=float_network, or the path of its checkpoint"
                )
            self._whole = _copy(student)

    def settle(self, trainer: pl.Trainer, student: pl.LightningModule, saved: Mapping[str, Any] | None) -> None:
        """Bring it to the student's device and precision.

        Args:
            trainer: The Trainer, whose fit starts.
            student: The module, with the weights of a checkpoint that the run goes on from.
            saved: The state of the callback in that checkpoint.

        Raises:
            MisconfigurationException: The copy is not the one that the run began with.
        """
        assert self._whole is not None
        copied = self.source is None
        if copied and saved is None:  # weights may have come from a checkpoint after the copy was made
            if hasattr(self._whole, "configure_model"):
                self._whole.configure_model()  # type: ignore[operator]
            self._whole.load_state_dict(student.state_dict())
        convert = trainer.precision_plugin.convert_module
        self._whole = convert(self._whole).to(student.device).eval()
        if copied:
            self._digest = _digest(self._whole)
            if saved is not None and saved.get("teacher") != self._digest:
                raise MisconfigurationException(
                    "teacher=None is a copy of the network as it was when the run began, and the network that goes on "
                    "now began with other weights; HINT: begin with the same ones, or teacher='float.ckpt'"
                )

    def forget(self) -> None:
        """Free its memory."""
        self._whole = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to say of it: no weights, but which ones they were."""
        return {} if self._digest is None else {"teacher": self._digest}


def part_of(module: nn.Module, path: str) -> nn.Module:
    """The part of a module at a path, which is itself for none.

    Raises:
        MisconfigurationException: There is no such part.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in module.named_children()]
        hint = f"it has {names}{meant(path, names)}"
        raise MisconfigurationException(
            f"module must be the path of a part of {type(module).__name__}, got {path!r}; {hint}"
        ) from None


def _copy(student: pl.LightningModule) -> nn.Module:
    """A copy that computes by itself: what was compiled belongs to the student."""
    context, student._compiler_ctx = student._compiler_ctx, None
    try:
        twin = independent_copy(student)
    finally:
        student._compiler_ctx = context
    if context is not None:
        for name in COMPILED:
            twin.__dict__.pop(name, None)
    return twin


def _digest(module: nn.Module) -> str:
    """Of names and values of all weights and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        if isinstance(value, Tensor):
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
