"""One engine in a process of its own: its threads, its memory and its caches disturb no other engine's.

Started by :mod:`tvm_schedules.engines.process` as ``python -m tvm_schedules.engines.worker JSON``; answers one line of
JSON to every line of JSON that it reads. Engines of other projects run in environments that do not have this package,
where this file is started by its path: at its top it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UPS = 3
MAX_RUNS = 20000
OWN = ("tern", "onnxruntime")
"""Engines of the environment that this package is installed in."""
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends, also inside of a long call, or at once if that has happened.

    The system does it on Linux, when the thread that has started this process ends.

    Args:
        parent: The number of the parent's process, which the system has forgotten by now if it is gone.
    """
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import ctypes

            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # before the system was told
        os._exit(1)


def _limit_memory_to_engine() -> None:
    """Keep torch out of a process that does not use it: TVM's FFI imports it where it is installed."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"


def _neighbor(name: str) -> Any:
    """A neighboring file, by its path: its package need not be there."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load(config: dict[str, Any]) -> tuple[Callable[[list[Any]], Any], Any]:
    """The engine as a function of the inputs in order, and the loaded model where it is ours."""
    if config["engine"] == "tern":
        from tvm_schedules.artifact.load import load

        model = load(config["artifact"], threads=config["threads"])
        return (lambda inputs: model(*inputs)), model
    if config["engine"] != "onnxruntime":
        return _neighbor("peer_engines").load(config["engine"], config["path"], config["threads"]), None
    session = _session(config["path"], config["threads"], config.get("two_bit", False))
    names = [entry.name for entry in session.get_inputs()]
    return (lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))), None


def _session(path: str, threads: int, two_bit: bool = False) -> Any:
    """An onnxruntime session with its default graph optimization.

    Without the fusion of quantized operators where the weights are 2-bit: onnxruntime 1.31 has no integer operators for
    them, and is several times slower when it tries.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if two_bit:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def relative_error(run: Callable[[list[Any]], Any], inputs: list[Any], outputs: list[Any]) -> float:
    """Largest difference from the reference relative to its largest value, over all samples and outputs."""
    import numpy as np

    worst = 0.0
    for arrays, expected in zip(inputs, outputs, strict=True):
        actual = run(arrays)
        for a, b in zip(actual if isinstance(actual, list | tuple) else [actual], expected, strict=True):
            if a.shape != b.shape:
                a = _neighbor("peer_engines").fitted(a, b.shape)
            scale = float(np.abs(b.astype(np.float64)).max(initial=0)) or 1.0
            worst = max(worst, float(np.abs(a.astype(np.float64) - b).max(initial=0)) / scale)
    return worst


def _time_steps(model: Any, inputs: list[Any], seconds: float) -> list[float]:
    """Median time of every step in microseconds, in the order and on the data of a run, without call overhead."""
    import numpy as np

    model(*inputs)
    own = model.step_seconds()
    if own is not None:  # of a device: starting and waiting would take longer than a step
        return [float(value) for value in np.median([own, *(model.step_seconds() for _ in range(2))], axis=0) * 1e6]
    count = len(model.plan.steps)
    clock = time.perf_counter_ns
    rows: list[list[int]] = []
    finish = clock() + int(seconds * 1e9)
    while len(rows) < 3 or (clock() < finish and len(rows) < MAX_RUNS):
        row = []
        for step in range(count):
            start = clock()
            model.run_steps(step, step + 1)
            row.append(clock() - start)
        start = clock()
        model.run_steps(0, 0)
        rows.append([*row, clock() - start])
    medians = np.median(np.array(rows[1:]), axis=0) / 1e3
    return [max(0.0, float(value - medians[-1])) for value in medians[:-1]]


def _time(run: Callable[[list[Any]], Any], inputs: list[list[Any]], seconds: float) -> list[float]:
    """Latencies in microseconds, after some runs that do not count."""
    clock = time.perf_counter_ns
    for index in range(WARM_UPS):
        run(inputs[index % len(inputs)])
    result: list[float] = []
    finish = clock() + int(seconds * 1e9)
    while len(result) < 3 or (clock() < finish and len(result) < MAX_RUNS):
        arrays = inputs[len(result) % len(inputs)]
        start = clock()
        run(arrays)
        result.append((clock() - start) / 1e3)
    return result


def _samples(config: dict[str, Any]) -> tuple[list[list[Any]], list[list[Any]]]:
    """The artifact's stored inputs and outputs."""
    if config["engine"] in OWN:
        from tvm_schedules.artifact.samples import load_samples

        return load_samples(config["artifact"])
    import numpy as np

    with np.load(os.path.join(config["artifact"], "samples.npz"), allow_pickle=False) as file:
        sides = [[file[f"{side}{i}"] for i in range(99) if f"{side}{i}" in file] for side in ("input", "output")]
    return tuple([list(run) for run in zip(*side, strict=True)] for side in sides)  # type: ignore[return-value]


def busy(cpus: list[int]) -> float:
    """Seconds for which any process has used these CPUs since the machine started; 0 where the system does not say."""
    try:
        with open("/proc/stat") as file:
            rows = {line.split()[0]: [int(part) for part in line.split()[1:]] for line in file if line[:3] == "cpu"}
        ticks = sum(sum(rows[f"cpu{cpu}"]) - sum(rows[f"cpu{cpu}"][3:5]) for cpu in cpus)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, KeyError, ValueError):
        return 0.0


def _time_alone(
    run: Callable[[list[Any]], Any], inputs: list[list[Any]], seconds: float, cpus: list[int], meter: Any
) -> Any:
    """Latencies, the machine's power, and the share of a CPU that other processes took meanwhile."""
    wall, own, used = time.perf_counter(), time.process_time(), busy(cpus)
    meter.start()
    latencies = _time(run, inputs, seconds)
    watts = meter.stop()
    others = (busy(cpus) - used) - (time.process_time() - own)
    return {"us": latencies, "watts": watts, "others": max(0.0, others / max(1e-3, time.perf_counter() - wall))}


def _save_outputs(run: Callable[[list[Any]], Any], inputs: list[list[Any]], folder: str) -> str:
    """Write the outputs for all samples as ``0``, ``1``, ..., each ``[runs, *shape]``; returns the file's name."""
    import numpy as np

    results = [run(arrays) for arrays in inputs]
    runs = [list(result) if isinstance(result, list | tuple) else [result] for result in results]
    stacked = {str(index): np.stack([run[index] for run in runs]) for index in range(len(runs[0]))}
    np.savez(os.path.join(folder, "outputs.npz"), **stacked)  # type: ignore[arg-type]
    return "outputs.npz"


def _peak_bytes() -> int:
    """Largest resident memory so far."""
    try:
        with open("/proc/self/status") as file:  # getrusage also counts the parent from before exec
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(config: dict[str, Any], read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Load the engine and answer commands until the input ends."""
    if hasattr(os, "sched_setaffinity") and config.get("cpus"):
        os.sched_setaffinity(0, config["cpus"])
    if config["engine"] in OWN:
        _limit_memory_to_engine()
    inputs, outputs = _samples(config)
    before = _peak_bytes()
    started = time.perf_counter()
    run, model = _load(config)
    loaded = time.perf_counter() - started
    answer: dict[str, Any] = {"load_seconds": loaded, "error": relative_error(run, inputs, outputs)}
    if hasattr(model, "device"):
        answer["device"] = model.device.name
    meter = _neighbor("energy").Meter()
    answer["energy"] = {"sensor": meter.sensor, "reason": meter.reason}
    while True:
        write(json.dumps(answer))
        line = read()
        if not line:
            return
        command = json.loads(line)
        if command["do"] == "outputs":
            answer = {"file": _save_outputs(run, inputs, config["artifact"])}
        elif command["do"] == "time":
            answer = _time_alone(run, inputs, command["seconds"], config.get("cpus", []), meter)
        elif command["do"] == "steps":
            answer = {"us": _time_steps(model, inputs[0], command["seconds"])}
        elif command["do"] == "ceiling":
            from pathlib import Path

            from tvm_schedules.backends.cpu.files import PROBE
            from tvm_schedules.backends.cpu.probe import measure

            width = model.metadata["target"]["vector_bytes"]
            answer = measure(Path(config["artifact"]) / PROBE, width, config["threads"], command["seconds"])
        else:
            answer = {"peak_bytes": _peak_bytes(), "own_bytes": _peak_bytes() - before}


def _prepare(config: dict[str, Any], channel: Any) -> None:
    """Make an engine's own file of an ONNX file, or, without one, say which versions there are."""
    engines, kind = _neighbor("peer_engines"), config["prepare"]
    versions = engines.check(kind)
    if "source" in config:
        engines.PREPARE[kind](config["source"], config["output"], config["samples"])
    print(json.dumps({"versions": versions}), file=channel, flush=True)


def main() -> None:
    """Serve on the standard streams; whatever a library prints goes to the error stream."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        config = json.loads(sys.argv[1])
        end_with(config["parent"])
        if "prepare" in config:
            _prepare(config, channel)
        else:
            serve(config, sys.stdin.readline, lambda line: print(line, file=channel, flush=True))
        status = 0
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        with contextlib.suppress(OSError):  # nobody listens any more
            print(json.dumps({"failed": lines[0]}), file=channel, flush=True)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # engines take long to put themselves away, and some hang


if __name__ == "__main__":
    main()
