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


@dataclass(frozen=True)
class PresetData:
    """A method with its published hyper-parameters, as plain data; ``print`` shows them with the recipe.

    :class:`tern_lightning.Preset` is the same with the callbacks that follow from it.

    Attributes:
        name: Name by which the preset is found.
        paper: Title and year.
        source: Text or code that states the numbers.
        method: Method of :class:`tern_lightning.TernaryCallback`.
        options: Options of the method, by name.
        layers: ``inner`` are all but the first and the last, ``all`` all, ``convolutions`` all Conv2d layers.
        start: When ternary training begins; see :class:`tern_lightning.TernaryCallback`.
        freeze: When codes are fixed; None where the paper has no such phase.
        companions: Callbacks that belong to the method: class name in ``tern_lightning`` and arguments.
        recipe: The training around it, which the callbacks do not set.
        notes: What else is published, and what differs here.
    """

    name: str
    paper: str
    source: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    layers: Literal["inner", "all", "convolutions"] = "inner"
    start: int | float = 0
    freeze: int | float | None = None
    companions: tuple[tuple[str, dict[str, Any]], ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    notes: str = ""

    def rules(self, options: dict[str, Any] | None = None) -> list[Rule]:
        """The rules that say which layers are ternary, with other options of the method where they are given."""
        from tern_lightning.rules import Rule  # needs torch, which a look at the numbers does not

        kinds: dict[str, dict[str, Any]] = {"inner": {}, "all": {"name": "*"}, "convolutions": {"type": "Conv2d"}}
        where = kinds[self.layers]
        return [Rule(method=self.method, options=options or self.options, **where)] if where else []

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.paper}", f"  source: {self.source}"]
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        lines.append(f"  method: {self.method}({options}), layers: {self.layers}, freeze: {self.freeze}")
        for name, arguments in self.companions:
            lines.append(f"  with {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        for one in dataclasses.fields(self.recipe):
            value = getattr(self.recipe, one.name)
            lines.append(f"  {one.name}: {'not published' if value is None else value}")
        return "\n".join([*lines, f"  {self.notes}"] if self.notes else lines)
