"""The tuner's memory: a JSON file of measured layers, written as a whole after every one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tvm_schedules.common.files import locked, user_path, write_file
from tvm_schedules.common.reading import read_json
from tvm_schedules.errors import TunerError

__all__ = ["Database", "default_database"]

FORMAT = 1


def default_database() -> Path:
    """``tern-lightning/tuning.json`` in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(cache) / "tern-lightning" / "tuning.json"


class Database:
    """Entries by key; a key says everything that a measurement depends on.

    Args:
        path: The file; it is made with the first entry.

    Raises:
        TunerError: The file cannot be read or is another one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path = user_path(path, "database")
        self._entries = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            data = read_json(
                self.path, TunerError, "tuning database", "; delete it to measure again, or name another one"
            )
        except FileNotFoundError:
            return {}
        if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("entries"), dict):
            raise TunerError(
                f"{self.path} is not a tuning database of this version (format {FORMAT}); delete it to measure again, "
                "or name another file"
            )
        return dict(data["entries"])

    def get(self, key: str) -> dict[str, Any] | None:
        """An entry, None where there is none."""
        return self._entries.get(key)

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Add an entry and write the file, with what other processes have written meanwhile.

        Raises:
            OutputError: The file cannot be written.
            TunerError: It has been damaged meanwhile.
        """
        with locked(self.path):
            self._entries = {**self._read(), **self._entries, key: entry}
            write_file(self.path, json.dumps({"format": FORMAT, "entries": self._entries}, indent=1) + "\n")

    def __len__(self) -> int:
        return len(self._entries)
