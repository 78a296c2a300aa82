"""What is known about targets before anything is compiled: the table of a core, its clock, and where both are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_schedules.errors import EstimateError
from tvm_schedules.estimate.table import Table, packaged
from tvm_schedules.targets import host_cpu
from tvm_schedules.targets.registry import TargetSpec, resolve

__all__ = ["CYCLES", "KINDS", "Device", "device"]

CLOCKS = {
    "pi3": 1.4e9, "pi4": 1.8e9, "pi5": 2.4e9, "cortex-m4": 168e6, "cortex-m7": 480e6, "cortex-m55": 400e6,
}  # fmt: skip
"""Cycles a second: those of a Raspberry Pi 3 B+, of a 4 since 2021, of a 5, of an STM32F4, an STM32H7 and
an Ensemble."""

CYCLES = {"cortex-m4": 1.4, "cortex-m7": 0.8, "cortex-m55": 1.4}
"""Cycles an instruction: assumed, not measured. A Cortex-M4 loads in two cycles and jumps in up to four, a Cortex-M7
issues two instructions at once, and a Cortex-M55 has vectors in two halves."""

KINDS = {"cortex-m4": "dsp", "cortex-m7": "dsp", "cortex-m55": "mve"}
"""Kinds of cores that may have tables of their own, of :data:`tvm_schedules.backends.c.program.CORES`."""

_BOARDS = {"a53": "pi3", "a72": "pi4", "a76": "pi5"}
"""Cores whose clock is that of a board with them."""

_CORES = {"cortex-a53": "a53", "cortex-a72": "a72", "cortex-a76": "a76"}
"""LLVM's names of cores that there are tables of."""

_C = {**dict.fromkeys(CYCLES, "c"), "c": "c"}
"""Targets that are C: microcontrollers by name."""


@dataclass(frozen=True)
class Device:
    """A target, and what says how long its kernels take.

    Attributes:
        name: As it was asked for.
        spec: The target.
        table: None where nothing was measured.
        seconds: Seconds of the table's unit.
        source: What table it is, in words.
        near: Whether the table is this very device's, so that its error bar holds.
    """

    name: str
    spec: TargetSpec
    table: Table | None
    seconds: float
    source: str
    near: bool


def device(name: str, measured: Sequence[Table] = ()) -> Device:
    """What is known about a target.

    Args:
        name: Of a CPU target of :func:`tvm_schedules.targets.registry.known`, of :data:`CYCLES`, or ``c``.
        measured: Profile tables that take precedence, for the targets that they name.

    Raises:
        TargetError: There is no such target.
        EstimateError: It is a graphics processor.
    """
    spec = resolve(_C.get(name, name))
    if spec.tvm["kind"] not in ("llvm", "c"):
        raise EstimateError(
            f"targets must be CPUs, {', '.join(CYCLES)} or c, got {name!r}: measure that one with tern-bench"
        )
    for one in measured:
        if one.target == name:
            return _device(name, spec, one, f"{one.how} on {one.device}, {one.when}", True)
    if name == "host":
        return _host(spec)
    kind = name if spec.tvm["kind"] == "c" else _CORES.get(str(spec.tvm.get("mcpu")))
    table = None if kind is None else packaged(kind)
    if table is None:
        return Device(name, spec, None, 0.0, "no table for this target: give one with --measured", False)
    clock = CLOCKS.get(name) or CLOCKS[_BOARDS[str(kind)]]
    return _device(name, spec, table, f"{table.how}, at {_hertz(clock)}", True, clock)


def _device(name: str, spec: TargetSpec, table: Table, source: str, near: bool, clock: float | None = None) -> Device:
    if table.unit != "seconds":
        clock = clock or CLOCKS.get(name) or CLOCKS.get(_BOARDS.get(name, ""))
        cycles = 1.0 if table.unit == "cycles" else CYCLES.get(name)
        if clock is None or cycles is None:
            raise EstimateError(f"the table for {name} has {table.unit}, and the clock of {name} is not known")
        if table.unit == "instructions":
            source += f", {cycles:g} cycles each, which is assumed"
        return Device(name, spec, table, cycles / clock, f"{source}; the error is that against counts", near)
    return Device(name, spec, table, 1.0, source, near)


def _hertz(clock: float) -> str:
    """Cycles a second in words.

    >>> _hertz(1.8e9), _hertz(168e6)
    ('1.8 GHz', '168 MHz')
    """
    return f"{clock / 1e9:.2g} GHz" if clock >= 1e9 else f"{clock / 1e6:.3g} MHz"


def _host(spec: TargetSpec) -> Device:
    """This machine by the table of another one, which may be of its kind."""
    kind = "arm64" if spec.arm64 else f"x86-{8 * spec.vector_bytes}"
    table = packaged(kind)
    if table is None:
        return Device("host", spec, None, 0.0, f"no table for {kind}: tern-bench --profile-table makes one", False)
    here = host_cpu.name()
    same = here == table.device
    source = f"{table.how} on {table.device}, {table.when}"
    return _device("host", spec, table, source if same else f"{source}; this is {here}", same)
