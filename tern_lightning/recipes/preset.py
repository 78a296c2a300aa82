"""What papers and their authors' code say about a method and about the training around it: plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tern_lightning.rules import Rule


@dataclass(frozen=True)
class Recipe:
    """The published training around a method. None: not published, or not known to us.

    Attributes:
        network: Network that the paper's figures are for.
        data: Name of the data set.
        start_from: What training starts from, ``scratch`` or ``float`` (a trained float network).
        optimizer: Class in ``torch.optim``.
        learning_rate: Learning rate of the weights at the start.
        momentum: Momentum of stochastic gradient descent.
        nesterov: Whether the momentum is Nesterov's.
        betas: Coefficients of Adam's two averages.
        weight_decay: Weight decay of the latent weights.
        batch_size: Number of samples in an optimizer step.
        epochs: Number of epochs, those after the freeze included.
        milestones: Epochs at which the learning rate is multiplied by the ``factors``.
        factors: One factor for each of the ``milestones``.
        schedule: The learning rate's schedule in words, where it is not one of milestones.
        warmup_steps: Optimizer steps of a rising learning rate.
        gradient_clip: Norm to which larger gradients are scaled down.
        augmentation: Augmentation of the training images, in words.
        steps: What is done one after another, in words, where it is more than one step.
    """

    network: str | None = None
    data: str | None = None
    start_from: Literal["scratch", "float"] | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    milestones: tuple[int, ...] | None = None
    factors: tuple[float, ...] | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    gradient_clip: float | None = None
    augmentation: str | None = None
    steps: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Result:
    """A published accuracy. None: not published, or not known to us.

    Attributes:
        network: Name of the network.
        data: Name of the data set.
        accuracy: Of the trained network, top-1 in per cent.
        float_accuracy: Of the float network that it is compared with, top-1 in per cent.
        lost: Points between the two, where only they are published; less than zero is a gain.
        where: Table or text that states it.
    """

    network: str
    data: str
    accuracy: float | None = None
    float_accuracy: float | None = None
    lost: float | None = None
    where: str = ""

    @property
    def reached(self) -> str:
        """The accuracy in words, for example ``91.65 % (float 91.70 %)``."""
        reached = "" if self.accuracy is None else f"{self.accuracy:.2f} %"
        if self.float_accuracy is not None:
            reached += f" (float {self.float_accuracy:.2f} %)"
        if self.lost is not None:
            reached = f"{abs(self.lost):.2f} points {'less' if self.lost > 0 else 'more'} than float"
        return reached

    def __str__(self) -> str:
        """For example ``ResNet-20 on CIFAR-10: 91.65 % (float 91.70 %), authors' table``."""
        return f"{self.network} on {self.data}: {self.reached}" + (f", {self.where}" if self.where else "")


@dataclass(frozen=True)
class PresetData:
    """A method with its published hyper-parameters, as plain data; ``print`` shows them with the recipe.

    :class:`tern_lightning.Preset` is the same with the callbacks that follow from it.

    Attributes:
        name: Name by which the preset is found.
        paper: Title and year.
        source: Text or code that states the numbers.
        method: Method of :class:`tern_lightning.TernaryCallback`; None for a published pruning without ternary weights,
            which is its companions alone.
        options: Options of the method, by name.
        layers: ``inner`` are all but the first and the last, ``all`` all, ``convolutions`` all Conv2d layers.
        dense: Patterns of layers that stay float in those of ``layers``; a network need not have any.
        start: When ternary training begins; see :class:`tern_lightning.TernaryCallback`.
        freeze: When codes are fixed; None where the paper has no such phase.
        companions: Callbacks that belong to the method: class name in ``tern_lightning`` and arguments.
        recipe: The training around it, which the callbacks do not set.
        results: Accuracies that are published for it.
        notes: What else is published, and what differs here.
    """

    name: str
    paper: str
    source: str
    method: str | None
    options: dict[str, Any] = field(default_factory=dict)
    layers: Literal["inner", "all", "convolutions"] = "inner"
    dense: tuple[str, ...] = ()
    start: int | float = 0
    freeze: int | float | None = None
    companions: tuple[tuple[str, dict[str, Any]], ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    results: tuple[Result, ...] = ()
    notes: str = ""

    def rules(self, options: dict[str, Any] | None = None) -> list[Rule]:
        """The rules that say which layers are ternary, with other options of the method where they are given."""
        from tern_lightning.rules import Rule  # needs torch, which a look at the numbers does not

        kinds: dict[str, dict[str, Any]] = {"inner": {}, "all": {"name": "*"}, "convolutions": {"type": "Conv2d"}}
        where = kinds[self.layers]
        dense = [Rule(pattern, optional=True) for pattern in self.dense]
        return dense + ([Rule(method=self.method, options=options or self.options, **where)] if where else [])

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.paper}", f"  source: {self.source}"]
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        dense = f" without {', '.join(self.dense)}" if self.dense else ""
        method = "none" if self.method is None else f"{self.method}({options})"
        lines.append(f"  method: {method}, layers: {self.layers}{dense}, freeze: {self.freeze}")
        for name, arguments in self.companions:
            lines.append(f"  with {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        for one in dataclasses.fields(self.recipe):
            value = getattr(self.recipe, one.name)
            lines.append(f"  {one.name}: {'not published' if value is None else value}")
        lines += [f"  published: {result}" for result in self.results]
        return "\n".join([*lines, f"  {self.notes}"] if self.notes else lines)
