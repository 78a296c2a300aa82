"""What a training step costs with every method, beside the float network and other packages' fake quantization.

    python -m benchmarks.step_cost resnet20 resnet18 --rounds 7 --output runs/step_cost.json

Every variant trains in Lightning's Trainer, as a user would run it; the time of a step is that from the end of one
batch to the end of the next. Rounds go through all variants in turn, so that a busy machine meets all of them, and
every time the float network is measured just before; a variant's overhead is the median over the rounds of the one
time over the other, and that of the fastest steps is printed beside it. The float network is one of the variants: its
overhead over itself is the noise. On a machine that has other work to do ``--clock cpu`` counts the process's own CPU
time. Peak memory is that of a step above what is allocated before it, with what methods keep from step to step.
Brevitas, torchao and torch's own quantization-aware training take part where they are installed; they only quantize
weights here, in the same layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_peers import PEERS
from examples.models import MODELS
from tern_lightning import BCGD, ActivationQuantization, EntropyConstraint, PruningSchedule, Schedule, TernaryCallback
from tern_lightning.functional.spare import release
from tern_lightning.quantizers import quantizer_names
from tvm_schedules.common.files import write_file

BATCHES = {"resnet20": 128, "resnet18": 16, "transformer": 4}
"""Batch size by network; 32 for the others."""
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sws": [{}, {"terms": 2}],
    "tga": [{}, {"two_pass": True}],
    "ttq": [{}, {"sparsity": 0.5}],
    "twn": [{}, {"per_channel": True}],
}
"""Options of the methods that are measured in several forms."""


@dataclass
class Measurement:
    """One variant of one network.

    Attributes:
        network: Name of the network.
        variant: Name of the variant.
        seconds: Median time of a step in every round, on the wall.
        cpu: The same in CPU time of the process.
        float_seconds: The float network's, measured just before.
        float_cpu: The same in CPU time.
        peak: Peak memory of a step above what is allocated before it, bytes.
        error: Why the variant cannot run, or empty.
    """

    network: str
    variant: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    float_seconds: list[float] = field(default_factory=list)
    float_cpu: list[float] = field(default_factory=list)
    peak: int = 0
    error: str = ""


class Training(pl.LightningModule):
    """A network with cross-entropy and plain momentum."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Stochastic gradient descent."""
        return torch.optim.SGD(self.parameters(), 1e-3, momentum=0.9)


@dataclass
class Repeated:
    """The same batch several times; a list would be taken for several loaders."""

    batch: tuple[Tensor, Tensor]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([self.batch] * self.count)


class Watch(pl.Callback):
    """Times steps after the first, or with ``memory`` measures the peak memory of the second one."""

    def __init__(self, memory: bool = False) -> None:
        self.memory, self.peak = memory, 0
        self.ends: list[tuple[float, float]] = []
        self._profile: Any = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """The last callback of a batch."""
        cuda = pl_module.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        self.ends.append((time.perf_counter(), time.process_time()))
        if not self.memory:
            return
        if len(self.ends) == 1 and cuda:
            torch.cuda.reset_peak_memory_stats()
            self.peak = -torch.cuda.memory_allocated()
        elif len(self.ends) == 1:
            release()  # what methods keep from step to step counts
            self._profile = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            self._profile.__enter__()
        elif len(self.ends) == 2 and cuda:
            self.peak += torch.cuda.max_memory_allocated()
        elif len(self.ends) == 2:
            self._profile.__exit__(None, None, None)
            events = self._profile.profiler.kineto_results.events()
            sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
            total = 0
            for _, size in sorted(sizes, key=lambda one: one[0]):
                total += size
                self.peak = max(self.peak, total)


Callbacks = Callable[[], list[pl.Callback]]


def variants(bias: bool) -> dict[str, Callbacks]:
    """Callbacks of the float network, of every method, and of some that come on top of one."""

    def ternary(method: str, options: dict[str, Any], freeze: int | None = None) -> Callbacks:
        def make() -> list[pl.Callback]:
            own: list[pl.Callback] = [
                TernaryCallback(method, None, options, freeze=freeze, bn_batches=0, verbose=False)
            ]
            return [*own, EntropyConstraint()] if method == "ec2t" else own

        return make

    def with_twn(make: Callable[[], pl.Callback]) -> Callbacks:
        return lambda: [*ternary("twn", {})(), make()]

    found: dict[str, Callbacks] = {"float": list}
    for method in quantizer_names():
        for options in OPTIONS.get(method, [{}]):
            words = [f"{key}={value}" for key, value in options.items()]
            if method != "tequila" or bias:
                found[" ".join([method, *words])] = ternary(method, options)
    for method in ("twn", "ttq", "multilevel"):
        found[f"frozen {method}"] = ternary(method, {}, freeze=0)
    ramp = Schedule("constant", unit="step")
    found["twn + PruningSchedule"] = with_twn(lambda: PruningSchedule(0.8, schedule=ramp))
    found["twn + BCGD"] = with_twn(BCGD)
    found["twn + PruningSchedule + 8 bit"] = lambda: [
        *found["twn + PruningSchedule"](),
        ActivationQuantization(),
    ]
    return found


def run(
    module: Training, callbacks: Sequence[pl.Callback], batch: tuple[Tensor, Tensor], watch: Watch, steps: int
) -> None:
    """Train for ``steps`` batches after a first one, which is not counted."""
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="auto",
        devices=1,
        callbacks=[*callbacks, watch],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, Repeated(batch, steps + 1))


def measure(network: str, names: Sequence[str], rounds: int, steps: int, batch: int) -> list[Measurement]:
    """Measure the variants of a network, interleaved."""
    make, shape = MODELS[network]
    torch.manual_seed(0)
    start = make()
    classes = [module for module in start.modules() if isinstance(module, nn.Linear)][-1].out_features
    data = torch.randn(batch, *shape), torch.randint(classes, (batch,))
    bias = all(m.bias is not None for m in start.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    own: dict[str, Callbacks] = {**variants(bias), **dict.fromkeys(PEERS, list)}
    chosen = [name for name in own if name == "float" or not names or name in names]
    found = {name: Measurement(network, name) for name in chosen}
    modules: dict[str, Training] = {}
    for name in chosen:
        try:
            copied = copy.deepcopy(start)
            modules[name] = Training(PEERS[name](copied) if name in PEERS else copied)
            watch = Watch(memory=True)
            run(modules[name], own[name](), data, watch, 2)
            found[name].peak = watch.peak
        except ImportError as error:
            found[name].error = str(error)
    for number in range(rounds):
        for name, module in modules.items():
            one = found[name]
            for variant, wall, cpu in (("float", one.float_seconds, one.float_cpu), (name, one.seconds, one.cpu)):
                watch = Watch()
                run(module if variant == name else modules["float"], own[variant](), data, watch, steps)
                for clock, times in zip(zip(*watch.ends, strict=True), (wall, cpu), strict=True):
                    times.append(statistics.median(b - a for a, b in pairwise(clock)))
        print(f"{network}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return list(found.values())


def overheads(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Per cent over the float network measured just before, sorted."""
    return sorted(100 * (a / b - 1) for a, b in zip(times, base, strict=True))


def table(found: Sequence[Measurement], clock: Literal["wall", "cpu"] = "wall") -> str:
    """The results as text."""
    what = "seconds" if clock == "wall" else "cpu"
    lines = []
    for network in dict.fromkeys(one.network for one in found):
        mine = [one for one in found if one.network == network]
        base = mine[0]
        lines += [
            f"{network}: median ms ({clock}), overhead over float in % (quartiles), that of the fastest steps, "
            "peak MB, its overhead in %"
        ]
        for one in mine:
            if one.error:
                lines.append(f"  {one.variant:24} not run: {one.error}")
                continue
            times = getattr(one, what)
            floats = getattr(one, f"float_{what}")
            over = overheads(times, floats)
            low, high = over[len(over) // 4], over[-1 - len(over) // 4]
            lines.append(
                f"  {one.variant:24} {1e3 * statistics.median(times):9.1f} {statistics.median(over):7.1f} "
                f"({low:.1f} to {high:.1f}) {100 * (min(times) / min(floats) - 1):7.1f} "
                f"{one.peak / 1e6:9.1f} {100 * (one.peak / base.peak - 1):7.1f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="cost of a training step")
    parser.add_argument("networks", nargs="+", choices=sorted(MODELS), help="networks")
    parser.add_argument("--variants", default="", help="names of variants, separated by commas; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds through all variants")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a variant in a round")
    parser.add_argument(
        "--batch",
        type=int,
        help="samples; default: 128 for resnet20, 16 for resnet18, 4 for transformer, 32 for others",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="time that the table shows")
    parser.add_argument("--output", type=Path, help="JSON file with all times")
    options = parser.parse_args(arguments)
    for name in ("rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    quiet()
    found = []
    names = [name.strip() for name in options.variants.split(",") if name.strip()]
    for network in options.networks:
        batch = options.batch or BATCHES.get(network, 32)
        found += measure(network, names, options.rounds, options.steps, batch)
    print(table(found, options.clock))
    if options.output is not None:
        machine = {"threads": options.threads, "torch": torch.__version__, "cuda": torch.cuda.is_available()}
        write_file(options.output, json.dumps({**machine, "measurements": [asdict(one) for one in found]}, indent=1))
    return 0


def quiet() -> None:
    """No messages of Lightning about runs of a few batches."""
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    sys.exit(main())
