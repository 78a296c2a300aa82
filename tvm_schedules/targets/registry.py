"""Named targets: what a board is called -> what TVM has to be told, and what the kernels may rely on."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, replace
from typing import Any

from tvm_schedules.common import names
from tvm_schedules.common.near import meant
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TargetError
from tvm_schedules.targets import gpu
from tvm_schedules.targets import host_cpu as cpu

_ARM_TRIPLE = "aarch64-linux-gnu"
_V8 = frozenset({"neon"})
_V8_CRC = _V8 | {"crc"}
_V82 = _V8_CRC | {"lse", "rdm", "fullfp16", "dotprod"}
_V82_I8MM = _V82 | {"i8mm"}
# AES and SHA instructions are an option of ARM's cores that LLVM's models of these have. Not every chip has them (those
# of the Raspberry Pi 3 and 4 do not) and no kernel uses them, so that presets for boards do without.
_NO_CRYPTO = ("-aes", "-sha2")
_WITH_DOT = ("cortex-a76", ("+neon", "+dotprod", *_NO_CRYPTO), _V82)
# LLVM's own model of the Neoverse N2 gives loops of sums a tenth more instructions, and more cycles by that model.
_WITH_I8MM = ("cortex-a76", ("+neon", "+dotprod", "+i8mm", *_NO_CRYPTO), _V82_I8MM)

SMALLEST_L1 = 32 << 10
"""Bytes of the first-level data cache that every CPU has."""

_LARGER_L1 = {
    *("znver5", "icelake-client", "icelake-server", "tigerlake", "rocketlake", "alderlake"),
    *("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d"),
}


@dataclass(frozen=True)
class TargetSpec:
    """A machine to build for.

    Attributes:
        name: Preset's name, or ``json`` for a raw TVM target.
        tvm: JSON for ``tvm.target.Target``.
        vector_bytes: Width of a vector register that the kernels should use: 64 (AVX-512), 32 (AVX2), 16 (NEON, SSE).
        features: Instruction sets by LLVM's names that the library may contain (those of ``cpu.CHECKED``).
        triple: LLVM triple to link for, or None for this machine's own linker.
    """

    name: str
    tvm: dict[str, Any]
    vector_bytes: int
    features: frozenset[str]
    triple: str | None

    @property
    def versions(self) -> tuple[TargetSpec, ...]:
        """Targets whose code an artifact has too, for CPUs that are more than this one; the best first."""
        return tuple(resolve(name) for name in _VERSIONS.get(self.name, ()))

    @property
    def l1_bytes(self) -> int:
        """The first-level data cache: 48 KiB of CPUs that are known to have so much, else the smallest."""
        return 48 << 10 if self.tvm.get("mcpu") in _LARGER_L1 else SMALLEST_L1

    @property
    def architecture(self) -> str:
        """The CPU's architecture as the operating system calls it, or what else the code is for."""
        first = str(self.tvm.get("mtriple", self.tvm["kind"])).split("-")[0]
        return cpu.linux_name(first)

    def to_dict(self) -> dict[str, Any]:
        """What an artifact's metadata say about its target."""
        return {
            "name": self.name,
            "tvm": self.tvm,
            "architecture": self.architecture,
            "vector_bytes": self.vector_bytes,
            "features": sorted(self.features),
        }

    def to_fields(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        return {**asdict(self), "features": sorted(self.features)}

    @classmethod
    def from_fields(cls, data: dict[str, Any]) -> TargetSpec:
        """The inverse of :meth:`to_fields`."""
        return cls(**{**data, "features": frozenset(data["features"])})

    @property
    def arm64(self) -> bool:
        """Whether the code is for 64-bit ARM."""
        return str(self.tvm.get("mtriple", "")).startswith(("aarch64", "arm64"))


_PRESETS: dict[str, tuple[str, tuple[str, ...], frozenset[str], str]] = {
    "arm": ("generic", ("+neon",), _V8, "any 64-bit ARM: three versions, of which the best for a core is loaded"),
    "a53": ("cortex-a53", ("+neon", *_NO_CRYPTO), _V8_CRC, "Cortex-A53"),
    "a55": ("cortex-a55", ("+neon", "+dotprod", *_NO_CRYPTO), _V82, "Cortex-A55 (dot product)"),
    "a72": ("cortex-a72", ("+neon", *_NO_CRYPTO), _V8_CRC, "Cortex-A72"),
    "a76": (*_WITH_DOT, "Cortex-A76 (dot product)"),
    "a78": ("cortex-a78", ("+neon", "+dotprod", *_NO_CRYPTO), _V82, "Cortex-A78 (dot product)"),
    "x1": ("cortex-x1", ("+neon", "+dotprod", *_NO_CRYPTO), _V82, "Cortex-X1 (dot product)"),
    "neoverse-n1": ("neoverse-n1", ("+neon", "+dotprod"), _V82, "Neoverse N1 (dot product)"),
    "neoverse-n2": (*_WITH_I8MM, "Neoverse N2 (matrix products, i8mm)"),
    "neoverse-v1": (*_WITH_I8MM, "Neoverse V1 (matrix products, i8mm)"),
    "neoverse-v2": (*_WITH_I8MM, "Neoverse V2 (matrix products, i8mm)"),
    "arm-dotprod": (*_WITH_DOT, "any 64-bit ARM with dot products"),
    "arm-i8mm": (*_WITH_I8MM, "any 64-bit ARM with i8mm"),
}
"""Name -> LLVM's name of the core, attributes, the features that libraries may use, and a line of description."""
_VERSIONS = {"arm": ("arm-i8mm", "arm-dotprod")}
"""Target -> targets whose code an artifact has too, for CPUs that are more than the target asks for; the best first."""
_ALIASES = {
    "pi3": ("a53", "Raspberry Pi 3"),
    "pi4": ("a72", "Raspberry Pi 4"),
    "pi5": ("a76", "Raspberry Pi 5"),
    "graviton2": ("neoverse-n1", "AWS Graviton2"),
    "graviton3": ("neoverse-v1", "AWS Graviton3"),
    "graviton4": ("neoverse-v2", "AWS Graviton4"),
}
"""Nickname of a board -> the preset of its core, and the board."""
_MICROCONTROLLERS = "; a microcontroller's library is C99: target c. Estimates and budgets know its core by name"
_WITHOUT_LLVM = {"c": "C99 source without TVM: microcontrollers, 32-bit ARM, any other CPU"}
"""Kinds of targets whose name says all of them -> a line of description."""


def known() -> dict[str, str]:
    """All target names with a line of description each."""
    names = {"host": "the machine that builds"}
    names.update({name: preset[3] for name, preset in _PRESETS.items()})
    names.update({alias: f"{board}, same as {name}" for alias, (name, board) in _ALIASES.items()})
    return names | _WITHOUT_LLVM | gpu.known()


def resolve(name_or_json: str) -> TargetSpec:
    """Turn a preset's name or a TVM target in JSON into a :class:`TargetSpec`.

    Args:
        name_or_json: A name of :func:`known`, or a JSON object such as
            ``{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73"}``.

    Raises:
        TargetError: The name is not known, the JSON is damaged, or TVM or LLVM does not know the target.

    Example:
        >>> resolve("pi5").tvm["mcpu"], "dotprod" in resolve("pi5").features, resolve("pi4").vector_bytes
        ('cortex-a76', True, 16)
    """
    text = name_or_json.strip()
    if text.startswith("{"):
        return _from_json(text)
    if text == "host":
        return _host()
    if text in _WITHOUT_LLVM:
        return TargetSpec(text, {"kind": text}, 16, frozenset(), None)
    graphics = gpu.resolve_gpu(text)
    if graphics is not None:
        return TargetSpec(text, graphics, 16, frozenset(), None)
    preset = _PRESETS.get(_ALIASES[text][0] if text in _ALIASES else text)
    if preset is None:
        raise TargetError(
            f"target must be one of {', '.join(known())}, or a TVM target as a JSON object, "
            f"got {name_or_json!r}{_MICROCONTROLLERS if text.startswith('cortex-m') else meant(text, known())}"
        )
    mcpu, mattr, features, _ = preset
    spec = {"kind": "llvm", "mtriple": _ARM_TRIPLE, "mcpu": mcpu, "mattr": list(mattr)}
    return TargetSpec(text, spec, 16, features, _link_triple(_ARM_TRIPLE))


def c_source(prefix: str) -> TargetSpec:
    """The target ``c`` for a network with a name of its own, so that several go into one program.

    Args:
        prefix: What the names of its files, functions and macros begin with, see
            :func:`tvm_schedules.common.names.prefix`.

    Raises:
        TargetError: The prefix cannot be used.

    Example:
        >>> c_source("wake_word").tvm
        {'kind': 'c', 'prefix': 'wake_word'}
    """
    try:
        return replace(resolve("c"), tvm={"kind": "c", "prefix": names.prefix(prefix)})
    except ValueError as error:
        raise TargetError(str(error)) from None


def _link_triple(triple: str) -> str | None:
    """The triple to cross-link for, None when this machine's own linker makes the same kind of file."""
    arch, *rest = triple.split("-")
    same_arch = cpu.linux_name(arch) == cpu.architecture()
    system = {"Darwin": "darwin", "Windows": "windows"}.get(platform.system(), "linux")
    same_system = any(part.startswith(system) or (system == "darwin" and part.startswith("macos")) for part in rest)
    return None if same_arch and same_system else triple


def _llvm_features(target: dict[str, Any]) -> frozenset[str]:
    """The instruction sets that LLVM may use for a TVM target, restricted to ``cpu.CHECKED``.

    Raises:
        TargetError: TVM or LLVM does not know the target.
    """
    import tvm

    try:
        found = tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target(target))
    except Exception as error:
        raise TargetError(f"TVM does not understand target {json.dumps(target)}: {_first_line(error)}") from error
    names = {str(name) for name in found}
    for attribute in target.get("mattr", []):
        if attribute.startswith("-"):
            names.discard(attribute[1:])
        else:
            names.add(attribute.removeprefix("+"))
    return frozenset(names) & cpu.CHECKED


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _vector_bytes(arch: str, features: frozenset[str], mattr: list[str]) -> int:
    if arch in ("x86_64", "amd64", "i686", "i386"):
        if {"avx512f", "avx512bw", "avx512vl"} <= features and "+prefer-256-bit" not in mattr:
            return 64
        return 32 if "avx2" in features else 16
    return 16


def _host() -> TargetSpec:
    """This machine, by LLVM's own detection checked against the features that the operating system reports.

    A hypervisor may hide instruction sets that the CPU model has; then the widest standard x86-64 level that is really
    there is taken instead of the model.
    """
    import tvm

    arch = cpu.architecture()
    codegen = tvm.target.codegen
    present = cpu.features()
    triple = f"{arch}-linux-gnu" if platform.system() == "Linux" else str(codegen.llvm_get_system_triple())
    model = str(codegen.llvm_get_system_cpu())
    levels = ["x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64"] if arch == "x86_64" else ["generic"]
    for mcpu in (model, *levels):
        target: dict[str, Any] = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu}
        if arch == "aarch64":
            target["mattr"] = ["+neon", *(["+dotprod"] if present and "dotprod" in present else [])]
        wanted = _llvm_features(target)
        if present is None or wanted <= present:
            break
    if arch == "x86_64" and "avx512f" in wanted:
        # LLVM halves the vectors of some AVX-512 models by default; the kernels are written for whole ones.
        target["mattr"] = ["-prefer-256-bit"]
    return TargetSpec("host", target, _vector_bytes(arch, wanted, []), wanted, None)


@reading("the target", TargetError, "; give a JSON object as TVM takes it", "is not understood")
def _from_json(text: str) -> TargetSpec:
    try:
        target = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(f"target is not valid JSON ({error}), got {text[:200]}") from error
    if target.get("kind") == "c":
        if unknown := sorted(target.keys() - {"kind", "prefix"}):
            raise TargetError(f'target JSON of "kind": "c" may have a "prefix", got {unknown}')
        return c_source(str(target["prefix"])) if "prefix" in target else resolve("c")
    if target.get("kind") != "llvm":
        raise TargetError(f'target JSON must have "kind": "llvm" or "c", got {target.get("kind")!r}')
    triple = target.setdefault("mtriple", f"{cpu.architecture()}-linux-gnu")
    if not isinstance(triple, str):
        raise TargetError(f'target JSON must have a string for "mtriple", got {triple!r}')
    mcpu = target.get("mcpu")
    if mcpu is not None:
        import tvm

        if not tvm.target.codegen.llvm_is_valid_cpu(str(mcpu), triple):
            raise TargetError(f"LLVM does not know the CPU {mcpu!r} for {triple}")
    features = _llvm_features(target)
    vector_bytes = _vector_bytes(triple.split("-")[0], features, target.get("mattr", []))
    return TargetSpec("json", target, vector_bytes, features, _link_triple(triple))
