"""Learn from a float network besides the labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.callbacks._teacher import Teacher, TeacherSource, part_of
from tern_lightning.functional.distillation import attention_transfer, hint, output_distance, soft_targets
from tern_lightning.nn.watch import Seen, Watch
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_share

Paths = Sequence[str] | Mapping[str, str]
"""Layers of the student, or those of the student with those of the teacher."""


@check_arguments
class Distillation(StatefulCallback):
    r"""Add to the loss how far the network is from a teacher on the same inputs.

    With the loss L that ``training_step`` returns, of logits s and the teacher's t,

    .. math:: (1 - w) \, L + w \, T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T))

    as in Distilling the Knowledge in a Neural Network (2015); ``features`` adds distances of the outputs of layers
    (FitNets: Hints for Thin Deep Nets, 2015), ``attention`` those of attention maps (Paying More Attention to
    Attention, 2017). ``tern_lightning.functional.distillation`` has the three losses.

    The teacher gets what ``forward`` was called with inside ``training_step``, without gradients, in evaluation mode
    and in the precision of the run. It is no part of the module, its optimizers or a checkpoint. The loss is
    complete when ``training_step`` returns, so that accumulation, scaling and the exchange between processes treat it
    as the module's own. ``distillation/loss`` is logged, the mean over an epoch of what was added.

    Args:
        teacher: A module, which is called with the same arguments; the path of a checkpoint of the module's own class,
            which is read safely; or None for a copy of the network as it is when fit starts, before it becomes
            ternary. A resumed run needs the same start then, and says so where it is another one.
        temperature: T, > 0.
        weight: The share w, in [0, 1].
        loss: ``kl`` for classification; ``mse`` takes the mean squared distance of outputs, for regression.
        features: Paths of layers whose outputs shall be like the teacher's, by
            :func:`~tern_lightning.functional.distillation.hint`, in equal shapes; a mapping where they have other
            names in the teacher.
        feature_weight: Factor of the mean of those losses, >= 0.
        attention: The same for attention maps of layers with positions, whose numbers of channels may differ.
        attention_weight: Factor of the mean of those losses, >= 0; the paper's beta.
        module: Path of the part of the module that is called with the inputs, where ``training_step`` does not call the
            module itself; a teacher that has such a part is called there, too.
        output: Where the logits are in what forward returns: a key of a mapping, the name of an attribute, or the place
            in a tuple. None where it returns them.
        class_axis: Axis of the classes.

    Raises:
        ValueError: A number is out of range.
        FileNotFoundError: The checkpoint is not there; when fit starts.
        MisconfigurationException: When fit starts, the module optimizes by hand, or a path is wrong; in training, the
            part that was named is not called, or shapes differ.

    Example::

        float_net = load_module("float.ckpt", Net)
        trainer = Trainer(callbacks=[TernaryCallback(), Distillation(float_net, temperature=2.0, weight=0.5)])
    """

    def __init__(
        self,
        teacher: TeacherSource = None,
        temperature: float = 2.0,
        weight: float = 0.5,
        loss: Literal["kl", "mse"] = "kl",
        features: Paths = (),
        feature_weight: float = 1.0,
        attention: Paths = (),
        attention_weight: float = 1.0,
        module: str = "",
        output: str | int | None = None,
        class_axis: int = 1,
    ) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be finite and > 0, got {temperature}")
        check_share("weight", weight)
        for name, value in (("feature_weight", feature_weight), ("attention_weight", attention_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
        self.temperature: float = temperature
        self.weight: float = weight
        self.loss = loss
        self.features: dict[str, str] = _pairs(features)
        self.attention: dict[str, str] = _pairs(attention)
        self.feature_weight: float = feature_weight
        self.attention_weight: float = attention_weight
        self.module: str = module
        self.output: str | int | None = output
        self.class_axis: int = class_axis
        self._teacher = Teacher(teacher, module)
        self._watches: tuple[Watch, Watch] | None = None
        self._restored: dict[str, Any] | None = None
        self._step: Any = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._teacher.prepare(pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "Distillation adds to the loss that training_step returns, and the module optimizes by hand: add "
                "tern_lightning.functional.distillation.soft_targets in its training_step"
            )
        saved, self._restored = self._restored, None
        self._teacher.settle(trainer, pl_module, saved)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not earlier: copies of the module that others make when fit starts shall have neither hooks nor the step.
        own, other = part_of(pl_module, self.module), self._teacher.part
        try:
            student = Watch(own, [*self.features, *self.attention])
            self._watches = student, Watch(other, [*self.features.values(), *self.attention.values()])
        except AttributeError as error:
            names = [name for name, _ in own.named_modules() if name]
            raise MisconfigurationException(f"features and attention name layers: {error}; {names}") from None
        self._step = pl_module.__dict__.get("training_step")
        original = pl_module.training_step

        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            with student.watching() as seen:
                result = original(*args, **kwargs)
            return self._with_teacher(pl_module, result, seen)

        pl_module.__dict__["training_step"] = step

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave(pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave(pl_module)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._teacher.forget()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._teacher.state()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def _leave(self, pl_module: pl.LightningModule) -> None:
        """Take hooks and step from the module."""
        if self._watches is None:
            return
        for watch in self._watches:
            watch.remove()
        self._watches = None
        if self._step is None:
            pl_module.__dict__.pop("training_step", None)
        else:
            pl_module.__dict__["training_step"] = self._step

    def _with_teacher(self, pl_module: pl.LightningModule, result: Any, seen: Seen) -> Any:
        """What ``training_step`` returned, with the teacher's part in its loss."""
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if loss is None:
            return result
        if not seen.calls:
            part = f"its part {self.module!r}" if self.module else "the module itself"
            raise MisconfigurationException(
                f"training_step has not called {part} with gradients, from whose call Distillation takes inputs and "
                "outputs; HINT: self(x) in training_step, or module='net' where it calls self.net(x)"
            )
        extra = self.extra_loss(seen)
        pl_module.log("distillation/loss", extra.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        total = (1 - self.weight) * loss + extra
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def extra_loss(self, seen: Seen) -> Tensor:
        """The weighted losses beside the module's own, of what was seen in one step; means over several calls."""
        assert self._watches is not None
        with torch.no_grad(), self._watches[1].watching() as wanted:
            for args, kwargs, _ in seen.calls:
                self._teacher.part(*args, **kwargs)
        distances = []
        for (*_, own), (*_, other) in zip(seen.calls, wanted.calls, strict=True):
            with _explained("the outputs of student and teacher"):
                distances.append(self._distance(self._logits(own), self._logits(other)))
        total = self.weight * torch.stack(distances).mean()
        if self.features:
            total = total + self.feature_weight * _between(self.features, seen, wanted, hint)
        if self.attention:
            total = total + self.attention_weight * _between(self.attention, seen, wanted, attention_transfer)
        return total

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.loss == "mse":
            return output_distance(student, teacher)
        return soft_targets(student, teacher, self.temperature, self.class_axis)

    def _logits(self, result: Any) -> Tensor:
        """The logits in what forward returned."""
        found = result
        try:
            if isinstance(self.output, int):
                found = result[self.output]
            elif self.output is not None:
                found = result[self.output] if isinstance(result, Mapping) else getattr(result, self.output)
        except (LookupError, AttributeError, TypeError):
            found = None
        if not isinstance(found, Tensor):
            raise MisconfigurationException(
                f"forward must return logits, or output must say where they are in a {type(result).__name__}, got "
                f"output={self.output!r}"
            )
        return found


def _pairs(paths: Paths) -> dict[str, str]:
    """Layers of the student with those of the teacher."""
    return dict(paths) if isinstance(paths, Mapping) else {path: path for path in paths}


def _between(paths: Mapping[str, str], seen: Seen, wanted: Seen, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean of a loss over layers and their calls."""
    parts = []
    for path, other in paths.items():
        own, theirs = seen.outputs.get(path, []), wanted.outputs.get(other, [])
        if not own or len(own) != len(theirs):
            raise MisconfigurationException(
                f"layer {path!r} ran {len(own)} times in a step, and {other!r} of the teacher {len(theirs)} times"
            )
        with _explained(f"the outputs of layer {path!r} and of the teacher's {other!r}"):
            parts += [loss(a, b) for a, b in zip(own, theirs, strict=True)]
    return torch.stack(parts).mean()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say which tensors do not go together."""
    try:
        yield
    except ValueError as error:
        raise MisconfigurationException(f"{what} cannot be compared: {error}") from error
