"""How much of the CPUs' time this process may use: the quotas of its control groups, versions 1 and 2.

``native/cpus.h`` does the same for programs without Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpus"]


def cpus(groups: str | Path = "/proc/self/cgroup", root: str | Path = "/sys/fs/cgroup") -> int | None:
    """The least quota of the process's control groups and of those that they are in, None without one.

    A quota of 1.5 CPUs is one: a second thread would use the time up, and then all of them stand still until the next
    period.

    Args:
        groups: The list of the process's groups.
        root: Where they are mounted.

    Returns:
        At least 1.
    """
    try:
        lines = Path(groups).read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = [quota for line in lines for folder in _folders(line, Path(root)) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _folders(line: str, root: Path) -> Iterator[Path]:
    """Where the quotas of a line ``number:controllers:/path`` may be.

    In a container the path may be the host's, and only the root is there.
    """
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers and "cpu" not in controllers.split(","):
        return
    for mount in ("cpu", "cpu,cpuacct") if controllers else ("", "unified"):
        folder = root / mount / path.lstrip("/")
        while True:
            yield folder
            if folder == root / mount or folder == folder.parent:
                break
            folder = folder.parent


def _quota(folder: Path) -> int | None:
    """Whole CPUs, None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text()  # version 1
            period = (folder / "cpu.cfs_period_us").read_text()
        except (OSError, ValueError):
            return None
    try:
        share, whole = int(quota), int(period)
    except ValueError:  # "max"
        return None
    return max(1, share // whole) if share > 0 and whole > 0 else None
