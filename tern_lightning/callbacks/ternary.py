"""Train the layers of a Lightning module as ternary layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks import _auto as auto
from tern_lightning.callbacks import _phases as phases
from tern_lightning.callbacks import _report as report
from tern_lightning.callbacks._clock import Clock
from tern_lightning.callbacks._logs import log_values
from tern_lightning.callbacks._masking import MaskCallback
from tern_lightning.callbacks._run import TernaryRun
from tern_lightning.callbacks._select import check_company
from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.callbacks._structure import said_of, structure_for
from tern_lightning.callbacks._tuning import finders, put_finders_last
from tern_lightning.callbacks._two_pass import first_pass
from tern_lightning.callbacks.entropy import EntropyConstraint
from tern_lightning.callbacks.pruning_schedule import PruningSchedule
from tern_lightning.layer_sensitivity import Sensitivity
from tern_lightning.nn.layer_state import Phase
from tern_lightning.nn.layer_types import find_weight
from tern_lightning.nn.loaded_weights import resume_training
from tern_lightning.nn.scalar_trainer import begin
from tern_lightning.nn.survey import other_parameters
from tern_lightning.quantizers import get_quantizer
from tern_lightning.recipes.lookup import find_preset
from tern_lightning.recipes.preset import PresetData
from tern_lightning.rules import Decision, Rule, resolve, rules_hint
from tvm_schedules.common.arguments import check_arguments

CHECK_EVERY = 50
"""Training batches from one look for NaN and infinite weights to the next; every look waits for the device."""


@check_arguments(hint=rules_hint)
class TernaryCallback(StatefulCallback):
    """Train convolutions and linear layers with weights of three values, ``-n``, ``0`` and ``p``.

    The layers are changed when fit starts, in place: parameters keep their names and shapes and hold float latent
    weights, which the optimizer moves, while forward uses their ternary values. A run has three phases: float training
    until ``start``; ternary training, where codes and levels follow the latent weights in every step; and from
    ``freeze`` on training with fixed codes, in which the latent weights of a class move together and their mean is the
    level (see :func:`tern_lightning.functional.frozen_levels`).

    Every checkpoint holds the ternary network under the float model's keys, so that it can be loaded without this
    package; the latent weights, and what a method trains besides them, are in the callback's state, from which
    ``fit(ckpt_path=...)`` continues. Averaged copies of the model share the latter.

    At the end of every epoch it logs for all layers together ``ternary/sparsity`` (share of zeros), ``ternary/entropy``
    (bits a weight) and ``ternary/flips`` (share of codes that changed in the epoch). It logs the same for every layer
    as ``ternary/<layer>/...``, with ``positive_level`` and ``negative_level``, the magnitudes that +1 and -1 stand for
    (their mean where there are several). In the float phase these numbers say what the method would give.

    A Trainer takes one of these callbacks; several methods are ``rules`` of one. An optimizer that gets a layer's
    weight only later in the run (``BaseFinetuning``) does not make it ternary; a rule that names the layer does, from
    the start.

    .. note:: A weight is ternary inside its layer's forward. Code elsewhere that reads ``layer.weight`` gets the latent
        Parameter.

    Args:
        method: Name of the method for the layers that no rule matches; see
            :func:`tern_lightning.quantizers.quantizer_names`.
        rules: Which layers get another method or stay float; the first rule that matches counts. Without a rule the
            first and the last layer stay float, those of each network where there are several (see
            :func:`tern_lightning.nn.survey.network_ends`), and so do layers that no optimizer moves, such as those of a
            teacher, and adapters of frozen layers. ``"auto"`` looks at these layers when fit starts and leaves float
            those that cost too much, as :meth:`tern_lightning.Sensitivity.costly` says; the module should be trained.
        options: Options of ``method``, for example ``{"per_channel": True}``.
        start: When ternary training begins: an epoch (int) or a fraction of the run (float). Where a run is continued
            from a checkpoint that knows no TernaryCallback, both count from there.
        freeze: When the codes are fixed, after ``start``: an epoch (int), a fraction of the run (float; never in a run
            without end), or None for never. ``start=0, freeze=0`` fixes them from the beginning.
        bn_batches: Over how many training batches after the freeze the running statistics of batch normalization are
            estimated anew; 0 leaves them alone.
        verbose: Print the resolved layers when fit starts and a summary when it ends.
        target: Where the network is to run, a target of ``tern-export`` such as ``pi4``: fit says which structure of
            zeros was measured to pay there, where the run's ``PruningSchedule`` has another, or there is none.

    Raises:
        TargetError: There is no such target.
        ValueError: An argument is out of range; when fit starts, a rule cannot be followed (see
            :func:`tern_lightning.rules.resolve`); during training, a weight is NaN or infinite.

    Example::

        from tern_lightning import Rule, TernaryCallback

        trainer = Trainer(callbacks=[TernaryCallback()])
        trainer = Trainer(callbacks=[TernaryCallback("absmean", rules=[Rule("head.*"), Rule("*", "twn")])])
    """

    instead: ClassVar[str] = "one for all layers, such as TernaryCallback('twn', rules=[Rule('head.*', 'ttq')])"

    def __init__(
        self,
        method: str = "twn",
        rules: Sequence[Rule] | Literal["auto"] | None = None,
        options: dict[str, Any] | None = None,
        start: int | float = 0,
        freeze: int | float | None = 0.6,
        bn_batches: int = 200,
        verbose: bool = True,
        target: str | None = None,
    ) -> None:
        if target is not None:
            structure_for(target)
        self.target: str | None = target
        self.method: str = method
        self.auto: bool = isinstance(rules, str)
        self.rules: tuple[Rule, ...] = () if isinstance(rules, str) else tuple(rules or ())
        self.sensitivity: Sensitivity | None = None
        self.options: dict[str, Any] = dict(options or {})
        get_quantizer(method, **self.options)
        phases.check_boundary("start", start)
        phases.check_boundary("freeze", freeze)
        if bn_batches < 0:
            raise ValueError(f"bn_batches must be >= 0, got {bn_batches}")
        self.start: int | float = start
        self.freeze: int | float | None = freeze
        self.bn_batches: int = bn_batches
        self.verbose: bool = verbose
        self.preset: PresetData | None = None
        self.clock: Clock = Clock()
        self._run = TernaryRun()
        self._empty: set[str] = set()
        self._unreached: list[str] = []
        self._float_best: list[str] = []
        self._told_of_loads = False
        self._restored: dict[str, Any] | None = None

    @classmethod
    def from_preset(
        cls,
        name: str | PresetData,
        options: dict[str, Any] | None = None,
        rules: Sequence[Rule] | None = None,
        freeze: int | float | Literal["preset"] | None = "preset",
        verbose: bool = True,
    ) -> TernaryCallback:
        """The callback with a paper's hyper-parameters.

        Some presets also have other callbacks, all of which ``tern_lightning.preset(name).callbacks()`` makes; without
        them fit warns. The training around the callbacks is in ``tern_lightning.preset(name).recipe``.

        Args:
            name: One of :func:`tern_lightning.presets`, or a preset of one's own.
            options: Options of the method besides those of the preset, which they override.
            rules: Which layers get another method or stay float, in place of the preset's.
            freeze: When the codes are fixed, in place of the preset's.
            verbose: Print the resolved layers when fit starts and a summary when it ends.

        Raises:
            ValueError: There is no such preset, or an option is unknown or out of range.

        Example::

            trainer = Trainer(callbacks=[TernaryCallback.from_preset("ttq-cifar10")])
            # The same in LightningCLI's YAML:
            #   callbacks:
            #     - class_path: tern_lightning.TernaryCallback.from_preset
            #       init_args: {name: ttq-cifar10}
        """
        own = find_preset(name) if isinstance(name, str) else name
        if own.method is None:
            raise ValueError(f"preset {own.name!r} has no ternary weights; use tern_lightning.preset(name).callbacks()")
        if isinstance(freeze, str) and freeze != "preset":
            raise ValueError(f"freeze must be an epoch, a fraction of the run, None or 'preset', got {freeze!r}")
        merged = {**own.options, **(options or {})}
        end = own.freeze if isinstance(freeze, str) else freeze
        found = cls(own.method, own.rules(merged) if rules is None else rules, merged, own.start, end, verbose=verbose)
        found.preset = own
        return found

    @property
    def phase(self) -> Phase:
        """Where in the run the layers are: ``float``, ``ternary`` or ``frozen``."""
        return self._run.phase

    @property
    def decisions(self) -> list[Decision]:
        """What was decided about every layer of the model, when fit starts."""
        return self._run.decisions

    @property
    @override
    def state_key(self) -> str:
        # Lightning prints the key when a run is resumed without the callback.
        return "TernaryCallback (tern_lightning; without it training goes on in float)"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        put_finders_last(trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_company(trainer, pl_module, "TernaryCallback")
        self.clock.enter(trainer, self._restored is not None, bool(self._run.layers))
        phases.check_order(trainer, self.start, self.freeze, self.clock.origin)
        words = phases.describe(trainer, self.start, self.freeze, self.clock.origin)
        self._install(trainer, pl_module)
        self._restore(pl_module)
        self._follow_schedule(trainer)
        if self.phase == "ternary":
            begin(self._run.layers)
        self._prepare_search(trainer, pl_module)
        report.check_finite(self._run.layers, trainer.global_step)
        if self.preset is not None:
            advice.missing_companions(self.preset, trainer)
        self._say_structure(trainer)
        if self.verbose:
            if self.phase == "frozen":
                words = "codes are frozen already"
            weights = [weight for one in self.decisions if (weight := find_weight(one.module)) is not None]
            report.print_decisions(self.decisions, words, other_parameters(pl_module, weights))

    def _say_structure(self, trainer: pl.Trainer) -> None:
        """Say which structure of zeros pays on the target, unless the run has it or makes zeros by another callback."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        pruning = [one.choice for one in callbacks if isinstance(one, PruningSchedule)]
        others = any(isinstance(one, MaskCallback | EntropyConstraint) for one in callbacks)
        if self.target is None or (others and not pruning):
            return
        if said := said_of(self.target, [(one.pattern, one.group) for one in pruning]):
            rank_zero_info(f"TernaryCallback: {said}")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Strategies that restore a checkpoint after their own setup do it after on_fit_start.
        self._restore(pl_module)
        self._run.statistics.go_on(pl_module)
        advice.in_eval_mode(pl_module)
        if self.clock.join(trainer):
            words = phases.describe(trainer, self.start, self.freeze, self.clock.origin)
            advice.joined("TernaryCallback", trainer, f"epochs and fractions of the run count from there, {words}")
        # The Trainer may know the number of batches only now.
        phases.check_order(trainer, self.start, self.freeze, self.clock.origin)
        self._unreached = phases.unreached(trainer, self.start, self.freeze, self.clock.origin)
        for reason in self._unreached:
            rank_zero_warn(reason)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._follow_loads(pl_module)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            now = self.clock.progress(trainer, batch_idx)
            self._advance(phases.next_phase(self.phase, self.start, self.freeze, now), trainer, pl_module)
            self._follow_schedule(trainer, batch_idx)
        if batch_idx == 0:
            # Not at an epoch's end, which a run that is resumed from its last batch does not see.
            self._run.codes = {one.path: one.ternary.codes for one in self.reports(compare=False)}
        first_pass(trainer, pl_module, batch, batch_idx, self._run.layers, self._run.scalars)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._run.scalars.step(optimizer, self._run.layers, trainer.world_size, scaler)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._run.statistics.step(pl_module)
        if batch_idx % CHECK_EVERY == 0:
            report.check_finite(self._run.layers, trainer.global_step)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Checkpoint callbacks that run after validation may monitor these before the epoch's values are logged.
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._run.layers:
            whole = report.totals(self.reports(compare=False))
            values = {f"ternary/{k}": v for k, v in whole.items()}
            log_values(trainer, pl_module, values, logger=False, sync_dist=True)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        report.check_finite(self._run.layers, trainer.global_step)
        report.warn_of_empty(self.reports(compare=False), self._empty, trainer.global_step)
        if self._run.layers:
            log_values(trainer, pl_module, report.log_values(self.reports()), sync_dist=True)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._run.layers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.phase == "float":
            if not self._unreached:
                advice.unfinished("TernaryCallback", trainer, f"start={self.start!r} was not reached")
            return
        advice.best_is_float(trainer, self._float_best)
        over = self.clock.progress(trainer).fraction
        soft = {type(one).__name__ for one in self._run.methods() if one.scheduled and one.progress < 0.99}
        if self.phase == "ternary" and soft and over is not None and over < 1 - 1e-6:
            advice.unfinished("TernaryCallback", trainer, f"{', '.join(sorted(soft))} still trained softened weights")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.verbose and self._run.layers:
            now = {path: layer._ternary_state.phase for path, layer in self._run.layers.items()}
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            report.print_summary(self.reports(), now, parameters)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and finders(trainer):
            self._restore(pl_module)  # a search without training has loaded the state from before
        self._restored = None
        self._run.statistics.stop(pl_module)
        self._run.end()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning calls no teardown then. A checkpoint may still be written, from which the statistics go on.
        self._run.statistics.pause(pl_module)
        self._run.end()

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._run.layers:
            return {}
        return {**self._run.state(), "origin": self.clock.state(), "float_best": list(self._float_best)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        advice.without_rounding(trainer, pl_module, checkpoint)

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        report.check_finite(self._run.layers, trainer.global_step)
        if self._run.layers:
            checkpoint["callbacks"][self.state_key].update(self._run.weights())

    def leave_float(self, trainer: pl.Trainer, pl_module: pl.LightningModule, layers: Mapping[str, str]) -> None:
        """Give layers up while a run trains: they go on in float, from their latent weights, for good.

        Layers of the same weight, averaged copies of the model and runs that continue this one do the same.

        Args:
            trainer: The Trainer.
            pl_module: The module that it trains.
            layers: Why, by the path of the layer.

        Raises:
            MisconfigurationException: Codes are frozen, from when on nothing is decided.
        """
        if layers and self.phase == "frozen":
            raise MisconfigurationException(
                f"layers {list(layers)} cannot go back to float, as codes are frozen. HINT: decide earlier, or a later "
                "freeze of TernaryCallback"
            )
        self._run.leave_float(trainer, pl_module, layers)

    def _install(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide about all layers and change them."""
        if self.clock.fresh:
            self._float_best = []
            self._run.begin()
        decisions = resolve(pl_module, self.rules, self.method, self.options, trainer.optimizers)
        if self._restored is not None:
            self._run.left_float = dict(self._restored.get("costly", {}))
        elif self.clock.fresh:
            self._run.left_float = self._look(trainer, pl_module, decisions) if self.auto else {}
        self._run.make_ternary(trainer, pl_module, decisions)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, decisions: list[Decision]) -> dict[str, str]:
        """Which layers would cost too much, and why."""
        self.sensitivity = auto.look(trainer, pl_module, decisions, self.verbose and trainer.is_global_zero)
        if self.verbose and trainer.is_global_zero:
            self.sensitivity.show()
        # The batches of processes differ, and so may what they found.
        found: dict[str, str] = trainer.strategy.broadcast(self.sensitivity.costly())
        return found

    def _restore(self, pl_module: pl.LightningModule) -> None:
        """Continue from the state of a checkpoint, after every other callback has loaded its own."""
        saved, self._restored = self._restored, None
        if saved is None:
            return
        self._run.restore(saved, pl_module)
        self.clock.load(saved)
        self._float_best = list(saved.get("float_best", ()))

    def _prepare_search(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a learning rate finder, which takes all callbacks away while it searches, find the ternary network."""
        if self.phase == "float" and self._run.layers and finders(trainer):
            if phases.reached(self.start, self.clock.progress(trainer)):
                self._advance("ternary", trainer, pl_module)
            else:
                advice.float_search(f"start={self.start!r}")

    def _follow_loads(self, pl_module: pl.LightningModule) -> None:
        """Go on from ternary weights that somebody has loaded, in which the latent weights are lost."""
        if not any(layer._ternary_loaded for layer in self._run.layers.values()):
            return
        paths = resume_training(pl_module)
        if self.phase == "ternary" and not self._told_of_loads:
            self._told_of_loads = True
            advice.latent_weights_lost(paths)

    def _advance(self, target: Phase, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go through the phases up to ``target``."""
        if self.phase == "float" and target != "float":
            self._float_best = advice.best(trainer)
        self._run.advance(target, pl_module, self.bn_batches)

    def _follow_schedule(self, trainer: pl.Trainer, batch_idx: int = 0) -> None:
        """Tell the methods that follow a schedule how much of the ternary phase is over."""
        methods = [method for method in self._run.methods() if method.scheduled]
        if methods:
            now = self.clock.progress(trainer, batch_idx)
            share = phases.phase_share(trainer, self.start, self.freeze, now, self.clock.origin)
            for method in methods:
                method.progress.fill_(share)

    def reports(self, compare: bool = True) -> list[report.LayerReport]:
        """One for every ternary layer, compared with the codes at the epoch's begin unless told otherwise."""
        return self._run.reports(compare)
