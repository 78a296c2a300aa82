"""Names of the files that a network becomes as C: they begin with its prefix, as its functions and macros do."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DEFAULT", "MODEL", "Files", "is_ours", "is_sample"]

DEFAULT = "model"
"""The prefix of a network without one of its own."""

_OURS = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.c|\.h)", re.ASCII)


@dataclass(frozen=True)
class Files:
    """The names for one prefix.

    Attributes:
        prefix: Of :func:`tvm_schedules.common.names.prefix`.
    """

    prefix: str = DEFAULT

    @property
    def source(self) -> str:
        """The one file to compile."""
        return f"{self.prefix}.c"

    @property
    def header(self) -> str:
        """Functions, shapes, scales."""
        return f"{self.prefix}.h"

    @property
    def weights(self) -> str:
        """Tables."""
        return f"{self.prefix}_weights.h"

    @property
    def sample(self) -> str:
        """An input and its output, for a self-test on the device; only in artifacts that were verified."""
        return f"{self.prefix}_sample.h"

    @property
    def sources(self) -> tuple[str, str, str]:
        """What a compiler needs."""
        return self.source, self.header, self.weights


MODEL = Files()
"""Those of a network without a prefix of its own."""


def is_ours(name: str) -> bool:
    """Whether a file of an artifact is C."""
    return _OURS.fullmatch(name) is not None


def is_sample(name: str) -> bool:
    """Whether it is a :attr:`Files.sample`."""
    return is_ours(name) and name.endswith("_sample.h")
