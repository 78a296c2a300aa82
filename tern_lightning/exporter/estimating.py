"""What a module would take on devices, before it is exported: :mod:`tvm_schedules.estimate` of its ONNX form."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm_schedules.common.arguments import check_arguments

if TYPE_CHECKING:
    from torch import nn

    from tvm_schedules.estimate.estimate import TargetEstimate

__all__ = ["estimate"]


@check_arguments
def estimate(
    module: nn.Module, targets: Sequence[str] = ("host",), measured: Sequence[Any] = (), **options: Any
) -> list[TargetEstimate]:
    """Estimate latency, RAM and bytes of a module on several targets, without compiling it.

    Args:
        module: As :func:`tern_lightning.export` takes it. It is not changed.
        targets: Names of CPU targets such as ``host``, ``pi4``, ``cortex-m7``.
        measured: Profile tables that ``tern-bench --profile-table`` wrote, in place of those that come with the
            package.
        options: Of :func:`tern_lightning.export`, such as ``samples``, ``input_shape`` or ``activations``.

    Returns:
        For every target ``seconds``, ``error``, ``source``, ``ram``, ``stored`` and ``steps``, see
        :class:`tvm_schedules.estimate.estimate.TargetEstimate`.

    Raises:
        ExportError: The module cannot be exported.
        TernError: It cannot be lowered for a target, or a target or a table cannot be used.

    Example::

        for one in tern_lightning.estimate(net, ("pi3", "pi4", "cortex-m7"), input_shape=(1, 3, 32, 32)):
            print(one.target, one.seconds, one.error, one.stored_bytes)
    """
    from tern_lightning.exporter.pipeline import export
    from tvm_schedules.estimate.estimate import estimate as of_file

    with tempfile.TemporaryDirectory(prefix="tern-estimate-") as folder, warnings.catch_warnings():
        from tern_lightning.exporter.errors import ExportWarning

        warnings.simplefilter("ignore", ExportWarning)  # they are about results, which nobody looks at here
        made = export(module, os.path.join(folder, "model"), onnx_only=True, **{"verify": False, **options})
        return of_file(made.onnx, targets, measured)
