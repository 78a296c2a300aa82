"""Presets by name: what papers and their authors' code say about a method and about the training around it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from tern_lightning.callbacks.ternary import TernaryCallback
    from tern_lightning.rules import Rule


@dataclass(frozen=True)
class Recipe:
    """The published training around a method. None: not published, or not known to us.

    Attributes:
        network: Network of the figures in the paper.
        data: Data set.
        start_from: What training starts from, ``scratch`` or ``float`` (a trained float network).
        optimizer: Class in ``torch.optim``.
        learning_rate: Of the weights, at the start.
        momentum: Of stochastic gradient descent.
        nesterov: Whether that is Nesterov's.
        betas: Of Adam.
        weight_decay: Of the latent weights.
        batch_size: Samples of an optimizer step.
        epochs: All of them, those after the freeze included.
        milestones: Epochs at which the learning rate is multiplied by the ``factors``.
        factors: As many as ``milestones``.
        schedule: The learning rate's schedule in words, where it is not one of milestones.
        warmup_steps: Optimizer steps of a rising learning rate.
        gradient_clip: Largest norm of the gradient.
        augmentation: Of the training images, in words.
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
class Preset:
    """A method with its published hyper-parameters; ``print`` shows them with the recipe.

    Attributes:
        name: Name.
        paper: Title and year.
        source: Where the numbers are from.
        method: Method of :class:`tern_lightning.TernaryCallback`.
        options: Its options.
        layers: ``inner`` are all but the first and the last, ``all`` all, ``convolutions`` all Conv2d layers.
        start: When ternary training begins; see :class:`tern_lightning.TernaryCallback`.
        freeze: When codes are fixed; None where the paper has no such phase.
        companions: Callbacks that belong to the method: class name in ``tern_lightning`` and arguments.
        recipe: The training around it, which the callbacks do not set.
        notes: What else is published, and what differs here.

    Example:
        >>> from tern_lightning import preset
        >>> preset("ttq-cifar10").recipe.weight_decay
        0.0002
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
        """The rules that say which layers are ternary."""
        from tern_lightning.rules import Rule

        kinds: dict[str, dict[str, Any]] = {"inner": {}, "all": {"name": "*"}, "convolutions": {"type": "Conv2d"}}
        where = kinds[self.layers]
        return [Rule(method=self.method, options=options or self.options, **where)] if where else []

    def callbacks(self, verbose: bool = True) -> list[pl.Callback]:
        """The TernaryCallback and its companions, in the order in which a Trainer should have them."""
        import tern_lightning

        others = [getattr(tern_lightning, name)(**arguments) for name, arguments in self.companions]
        first = [one for one in others if type(one).__name__ == "SLR"]
        return [
            *first,
            tern_lightning.TernaryCallback.from_preset(self, verbose=verbose),
            *(one for one in others if one not in first),
        ]

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


def _by_name() -> dict[str, Preset]:
    from tern_lightning.recipes.published import PRESETS  # the table is made of this module's classes

    return {one.name: one for one in PRESETS}


def presets() -> list[str]:
    """Names of all presets, sorted.

    Example:
        >>> presets()[:3]
        ['admm', 'b1.58-3b', 'b1.58-700m']
    """
    return sorted(_by_name())


def preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ValueError: There is none of this name.
    """
    known = _by_name()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"near misses: {near}" if near else f"there are {presets()}"
        raise ValueError(f"preset must be one of tern_lightning.presets(), got {name!r}; {hint}")
    return known[name]


def missing_companions(chosen: Preset, trainer: pl.Trainer) -> str | None:
    """What to say where callbacks of a preset are not in a Trainer, or None."""
    there = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    missing = [name for name, _ in chosen.companions if name not in there]
    if not missing:
        return None
    return (
        f"preset {chosen.name!r} is a TernaryCallback and {', '.join(missing)}, which this Trainer does not have. "
        f'HINT: callbacks=tern_lightning.preset("{chosen.name}").callbacks()'
    )


def build(
    cls: type[TernaryCallback],
    chosen: str | Preset,
    options: dict[str, Any] | None,
    rules: Sequence[Rule] | None,
    freeze: int | float | str | None,
    verbose: bool,
) -> TernaryCallback:
    """The TernaryCallback of a preset; see :meth:`tern_lightning.TernaryCallback.from_preset`."""
    own = preset(chosen) if isinstance(chosen, str) else chosen
    if isinstance(freeze, str) and freeze != "preset":
        raise ValueError(f"freeze must be an epoch, a fraction of the run, None or 'preset', got {freeze!r}")
    merged = {**own.options, **(options or {})}
    end = own.freeze if isinstance(freeze, str) else freeze
    found = cls(own.method, own.rules(merged) if rules is None else rules, merged, own.start, end, verbose=verbose)
    found.preset = own
    return found
