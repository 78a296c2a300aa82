"""What a back end is: everything between a fused graph and a model that runs.

To write another one, make a folder beside ``cpu``, ``gpu`` and ``c`` with a module ``backend`` that has

* a subclass of :class:`Backend` and an instance of it, ``BACKEND``;
* a subclass of :class:`Compiled`, which :meth:`Backend.compile` returns;
* a subclass of :class:`tvm_schedules.runtime.model.Model`, which :meth:`Backend.load` returns.

Then add its line to :data:`tvm_schedules.backends.registry.MODULES`, and names for its targets to
:mod:`tvm_schedules.targets.registry`. Usually a back end lowers the graph with a subclass
of :class:`tvm_schedules.lowering.base.Lowering` that has its kernels, gives the buffers between steps their places with
:mod:`tvm_schedules.lowering.memory`, and describes the result with :func:`tvm_schedules.lowering.plan.make_plan`. It
imports neither another back end nor anything of :mod:`tvm_schedules.artifact`, which asks it only for what is here.

The module ``backend`` is imported wherever artifacts are looked at, also on boards: it imports compilers, kernels and
TVM inside of functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from tvm_schedules.ir.graph import Graph
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec

if TYPE_CHECKING:
    from tvm_schedules.lowering.schedule_config import ScheduleConfig

__all__ = ["Backend", "Compiled", "Say", "Stored", "quiet"]

Array = npt.NDArray[Any]
Say = Callable[[str], None]
"""Called with a line of text before each stage of the work."""


def quiet(line: str) -> None:
    """Says nothing."""


class Compiled(ABC):
    """A network that a back end has compiled for an artifact.

    Attributes:
        plan: What is needed to run and to describe it; complete once :meth:`write` has returned.
        arrays: The stored weights, of which ``plan.constants`` makes the constant memory; empty where the code holds
            its constants itself (``stored_weights`` of the back end).
    """

    plan: Plan
    arrays: Mapping[str, np.ndarray]

    @abstractmethod
    def write(self, folder: Path, say: Say) -> dict[str, Any]:
        """Writes the code.

        Args:
            folder: The artifact's directory; files get names of :attr:`Backend.files`.
            say: For lines of progress.

        Returns:
            What ``metadata.json`` says under ``code``, in JSON types; nothing where the files' names say it all.

        Raises:
            LinkError: A tool is missing, or it failed.
        """


@dataclass(frozen=True)
class Stored:
    """The network of an artifact, as its files hold it.

    Attributes:
        name: The artifact's directory, for messages.
        metadata: Content of its ``metadata.json``.
        plan: Of the network, without ``constants``.
        content: Gives the bytes of one of its files by name, after comparing them with the recorded hash. It raises
            ArtifactError or OSError.
        constants: Gives the constant memory, uint8 ``[plan.constant_bytes]``; only where weights are stored.
    """

    name: Path
    metadata: dict[str, Any]
    plan: Plan
    content: Callable[[str], bytes]
    constants: Callable[[], Array]


class Backend(ABC):
    """Makes code of fused graphs for some kinds of targets, and runs it."""

    files: ClassVar[tuple[str, ...]]
    """Names of the files that :meth:`Compiled.write` and :meth:`finish` may write; no other back end has them. Those
    of a network with a name of its own are known by :meth:`has_file`."""
    not_run: ClassVar[tuple[str, ...]] = ()
    """Those of them that a device needs not have to run the network."""
    tunable: ClassVar[bool] = False
    """Whether :meth:`compile` follows schedule configurations, so that the tuner can measure them."""
    batch_sizes: ClassVar[bool] = True
    """Whether a network may be compiled for several numbers of samples, each with code of its own."""
    stored_weights: ClassVar[bool] = True
    """Whether weights are stored beside the code, and expanded when it is loaded."""
    threads: ClassVar[bool] = False
    """Whether its models share a call among threads as they are told."""
    single_steps: ClassVar[bool] = False
    """Whether its models are :class:`~tvm_schedules.runtime.model.SteppedModel`, whose steps can run one at a time."""
    process_kept: ClassVar[bool] = True
    """Whether a process that has compiled and verified a network is as good as new for another one."""

    # -- its files ----------------------------------------------------------------------------------------------------
    def has_file(self, name: str) -> bool:
        """Whether a name is that of a file which :meth:`Compiled.write` or :meth:`finish` may write."""
        return name in self.files

    def needs_file(self, name: str) -> bool:
        """Whether a device has to have that file to run a network."""
        return self.has_file(name) and name not in self.not_run

    # -- building ------------------------------------------------------------------------------------------------------
    @abstractmethod
    def check(self, spec: TargetSpec | None, verify: bool) -> None:
        """Makes sure that the tools which a build needs are there, before any work.

        Args:
            spec: The target; None is this machine, which only the compiler's process can describe.
            verify: Whether the code will be run.

        Raises:
            LinkError: One is missing; the message says what to install.
        """

    @abstractmethod
    def compile(
        self, graph: Graph, spec: TargetSpec, say: Say = quiet, configs: Mapping[str, ScheduleConfig] | None = None
    ) -> Compiled:
        """Compiles a network for an artifact.

        Args:
            graph: Of :func:`tvm_schedules.passes.prepare`; it is not changed.
            spec: What for.
            say: For lines of progress.
            configs: Schedule configurations by the names of nodes, where the back end is ``tunable``; what they leave
                open is the cost model's.

        Raises:
            ModelError: The network has an operator that cannot be lowered.
            TargetError: The target lacks what a kernel needs.
        """

    @abstractmethod
    def in_memory(self, graph: Graph, spec: TargetSpec) -> Model:
        """Compiles a network and makes it ready to run on this machine, without an artifact.

        Raises:
            TernError: As :meth:`compile` and :meth:`load`.
        """

    @abstractmethod
    def unavailable(self, spec: TargetSpec) -> str | None:
        """Why this machine cannot run code for a target; None if it can."""

    def stand_in(self, spec: TargetSpec) -> TargetSpec | None:
        """A target of this machine whose code is verified where the target's own cannot be run; None if there is none.

        It must show the same faults: the same graph, kernels and layouts, only other instructions.
        """
        return None

    def finish(self, folder: Path, model: Model, run: Mapping[str, Array]) -> None:  # noqa: B027
        """Called when the code in an artifact's directory has been verified; may add files.

        Args:
            folder: The directory.
            model: The network, loaded from there.
            run: A sample, inputs by name.
        """

    # -- loading -------------------------------------------------------------------------------------------------------
    def check_machine(  # noqa: B027
        self,
        what: str | Path,
        target: Mapping[str, Any],
        machine: str,
        architecture: str | None,
        features: Collection[str] | None,
    ) -> None:
        """Refuses code that a machine's CPU cannot run, before it dies by an illegal instruction.

        Args:
            what: The artifact, for the message.
            target: Its ``metadata["target"]``.
            machine: The machine, for the message.
            architecture: The machine's, None where it is not known.
            features: The CPU's instruction sets, None where they are not known.

        Raises:
            CpuFeatureError: It cannot.
        """

    @abstractmethod
    def load(self, stored: Stored, threads: int | None) -> Model:
        """Makes an artifact's network ready to run.

        Args:
            stored: The artifact. Of its files ``content`` may give those of :attr:`files`.
            threads: See :class:`~tvm_schedules.runtime.model.Model`.

        Raises:
            ArtifactError, OSError: From ``stored``.
            CpuFeatureError: The CPU lacks instructions.
            DeviceError: A driver or a device is missing.
            LinkError: A compiler is missing.
        """

    # -- describing ----------------------------------------------------------------------------------------------------
    @abstractmethod
    def loaded_files(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the files of the code that :meth:`load` reads."""

    def made_for(self, target: Mapping[str, Any], code: Mapping[str, Any] | None) -> str:
        """The processor in a few words.

        Args:
            target: ``metadata["target"]``.
            code: ``metadata["code"]``, if any.
        """
        return str(target["tvm"].get("mcpu", "generic"))

    def notes(self, plan: Plan) -> list[str]:
        """What else to tell people about an artifact, a line each."""
        return []

    def not_measured(self) -> str | None:
        """What to do instead of measuring an artifact with ``tern-bench``; None if it can be measured."""
        return None
