"""Runs on the board, under the plugin: marks what is counted. Arguments: a job in JSON, see :mod:`.count`."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MARK = 0x7E57
WARM = 50  # calls after which Python's interpreter does not change the code of the call any more
_libc = ctypes.CDLL(None)
_regions: list[str] = []


def region(name: str, run: Callable[[], Any]) -> None:
    """Runs between two marks. The first run ever is not to be counted: it starts threads and fills caches."""
    number = 2 * len(_regions)
    _regions.append(name)
    gc.collect()  # and none within
    _libc.syscall(MARK, number)
    run()
    _libc.syscall(MARK, number + 1)


def ours(job: dict[str, Any]) -> None:
    """Every step of an artifact by itself, and all of them in one call."""
    os.environ["TVM_THREAD_POOL_SPIN_COUNT"] = "0"  # a thread that spins would be counted too
    from tvm_schedules import load
    from tvm_schedules.artifact import load_samples
    from tvm_schedules.runtime.model import SteppedModel

    model = load(job["artifact"], threads=1, check_hashes=False)
    assert isinstance(model, SteppedModel)
    inputs, _ = load_samples(job["artifact"])
    np.save(job["output"], np.asarray(model(*inputs[0])))
    steps = len(model.plan.steps)
    for i in (0, steps, *[0] * WARM):
        model.run_steps(0, i)
    time.sleep(0.2)  # until TVM's other threads sleep
    region("call", lambda: model.run_steps(0, 0))
    region("network", lambda: model.run_steps(0, steps))
    for i in range(steps):
        region(f"step {i}", lambda i=i: model.run_steps(i, i + 1))  # type: ignore[misc]


def onnxruntime(job: dict[str, Any]) -> None:
    """A whole session's run, and one of a network of nothing, which is the cost of the call."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, path in (("call", job["nothing"]), ("network", job["model"])):
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with np.load(job["inputs"]) as file:
            feed = {i.name: file[i.name] for i in session.get_inputs() if i.name in file}
        feed = feed or {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
        for _ in range(WARM if name == "call" else 2):
            result = session.run(None, feed)
        region(name, lambda session=session, feed=feed: session.run(None, feed))  # type: ignore[misc]
    np.save(job["output"], result[0])


if __name__ == "__main__":
    work = json.loads(sys.argv[1])
    gc.disable()
    {"tern": ours, "onnxruntime": onnxruntime}[work["engine"]](work)
    with open(work["regions"], "w", encoding="utf-8") as handle:
        json.dump(_regions, handle)
    os._exit(0)  # libraries' own endings are not ours to count or to wait for
