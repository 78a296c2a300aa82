"""Everything about a graphics processor in one command: is every kernel right, and how fast.

    python -m benchmarks.gpu.measure --output runs/gpu

Writes ``gpu.json`` and ``gpu.md``. On a machine with an NVIDIA processor: kernels against numpy, networks against
onnxruntime, products of packed 2-bit weights with one and a few vectors against PyTorch's float16 and int8 and what 4-
or 2-bit peers are installed (``pip install bitsandbytes gemlite``), as a share of the memory bandwidth measured beside
them, ResNet-18 at batch 1 and 64; and whether the aims below are met.
Without one: the same checks through OpenCL where there is a device, and a plain list of what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import kernels, peers
from tvm_schedules.common.files import write_file
from tvm_schedules.errors import DeviceError, LinkError
from tvm_schedules.targets.registry import TargetSpec, resolve

SIZES = ((4096, 4096), (11008, 4096), (4096, 11008), (8192, 8192), (16384, 16384))
"""Outputs and inputs of the products."""
BATCHES = (1, 4, 8)
ODD = ((1, 301, 45), (1, 5000, 1030), (3, 301, 45), (7, 320, 33), (13, 324, 9), (1, 4096, 4096), (8, 4096, 1024))
"""Batch, inputs and outputs of the products that are compared with numpy."""
LAYERS = ("conv3x3-64-16x16", "conv1x1-256-14x14", "dense3x3-64-56x56", "depthwise3x3-192-28x28", "resnet20", "mlp")
PEER, FASTER, SHARE, LARGE = "torch fp16 (cuBLAS)", 4.0, 0.7, 4096 * 4096
"""Aims with one vector and matrices of at least that many weights: times as fast as the peer, share of bandwidth."""
TOLERANCE = 1e-5  # float32 scaling of exact integer sums


def find_target() -> tuple[TargetSpec | None, list[str]]:
    """The best target that can run here, and what is missing for better ones."""
    lacking: list[str] = []
    try:
        from tvm_schedules.backends.gpu.devices.cuda import capability
        from tvm_schedules.backends.gpu.nvrtc import check

        number = capability()
        check([number])
        return resolve(f"sm_{number}"), lacking
    except (DeviceError, LinkError) as error:
        lacking.append(f"CUDA: {error}")
    try:
        from tvm_schedules.backends.gpu.devices.opencl import devices

        devices()
        return resolve("opencl"), lacking
    except DeviceError as error:
        lacking.append(f"OpenCL: {error}")
    return None, lacking


def check_kernels(target: TargetSpec, say: Any) -> list[dict[str, Any]]:
    """Every kernel: products against numpy, layers and small networks stage by stage against onnxruntime."""
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        say(f"{'ok    ' if row['passed'] else 'FAILED'} {row['what']}: {row['error']:.3g}")

    for batch, inputs, outputs in ODD:
        spec = kernels.spec_of(batch, inputs, outputs, target)
        error = kernels.verify(spec, kernels.layer(batch, inputs, outputs), target)
        name = f"linear_dot {batch} x {inputs} -> {outputs}, relative"
        add({"what": name, "against": "numpy", "error": error, "passed": error < TOLERANCE})
    for name in LAYERS:
        for zeros in (0.3, 0.95):
            add(_check_network(name, zeros, target))
    return rows


def _check_network(name: str, zeros: float, target: TargetSpec) -> dict[str, Any]:
    from tvm_schedules import pipeline
    from tvm_schedules.bench import networks
    from tvm_schedules.verify import outputs as verification
    from tvm_schedules.verify.layerwise import compare_layers
    from tvm_schedules.verify.reference import reference_outputs

    model = networks.build(name, zeros)
    runs = [{model.graph.input[0].name: networks.samples(name)[:1]}]
    used: set[str] = set()

    def make(probe: Any) -> Any:
        network = pipeline.run_in_memory(pipeline.read_graph(probe), target)
        used.update(step.kernel for step in network.plan.steps)
        return network

    stages = compare_layers(model, runs, make)
    steps = max((stage.steps for stage in stages), default=0)
    share = max((stage.share for stage in stages), default=0.0)
    outputs = verification.run_all(pipeline.run_in_memory(pipeline.read_graph(model), target), runs)
    report = verification.compare_runs(model, outputs, reference_outputs(model, runs), target.name, runs)
    what = f"{name}, {zeros:.0%} zeros ({', '.join(sorted(used))}), steps"
    passed = steps <= 1 and share < 1e-3 and report.passed
    return {"what": what, "against": "onnxruntime", "error": steps, "passed": passed}


def measure_products(target: TargetSpec, say: Any) -> list[dict[str, Any]]:
    """Every size and batch: the kernel of networks, the best variant, and the peers, weights from memory and cached."""
    rows = []
    for outputs, inputs in SIZES:
        for batch in BATCHES:
            data = kernels.layer(batch, inputs, outputs)
            specs = list(kernels.variants(kernels.spec_of(batch, inputs, outputs, target)))
            for cold in (True, False):
                times = kernels.measure(specs, data, target, cold)
                best = int(np.argmin(times))
                row: dict[str, Any] = {
                    "outputs": outputs,
                    "inputs": inputs,
                    "batch": batch,
                    "weights_from_memory": cold,
                }
                row |= {"seconds": times[0], "best_seconds": times[best], "best": _variant(specs[best])}
                row |= {"weight_bytes": outputs * inputs / 4, "peers": peers.measure(batch, inputs, outputs, cold)}
                rows.append(row)
                say(f"{outputs} x {inputs}, batch {batch}, {'cold' if cold else 'cached'}: {1e6 * times[0]:.2f} us")
    return rows


def aims(products: Sequence[dict[str, Any]], bandwidth: float) -> list[dict[str, Any]]:
    """Whether the kernel of networks meets the aims, for every large product of one vector, weights from memory."""
    found = []
    for row in products:
        if row["batch"] != 1 or not row["weights_from_memory"] or row["outputs"] * row["inputs"] < LARGE:
            continue
        peer, share = row["peers"][PEER], row["weight_bytes"] / row["seconds"] / bandwidth
        ratio = None if isinstance(peer, str) else peer / row["seconds"]
        met = share >= SHARE and ratio is not None and ratio >= FASTER
        found.append({"what": f"{row['outputs']} x {row['inputs']}", "faster": ratio, "share": share, "met": met})
    return found


def _variant(spec: Any) -> str:
    return f"{spec.tile} rows a thread, {spec.lanes * spec.groups} threads a group"


def measure_resnet(target: TargetSpec, batches: Sequence[int], say: Any) -> list[dict[str, Any]]:
    """ResNet-18 with 80 % zeros: ours, and torch in float16 and bfloat16."""
    import onnx

    from examples.models import ResNet18
    from tvm_schedules import pipeline
    from tvm_schedules.backends.gpu.runtime import GpuModel
    from tvm_schedules.bench import networks

    rows = []
    for batch in batches:
        model = onnx.ModelProto()
        model.CopyFrom(networks.build("resnet18", 0.8))
        del model.graph.value_info[:]
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        network = pipeline.run_in_memory(pipeline.read_graph(model), target)
        assert isinstance(network, GpuModel)
        taken = network.seconds(number=4, repeat=5)
        row: dict[str, Any] = {"batch": batch, "seconds": taken}
        for dtype in ("float16", "bfloat16"):
            row[f"torch {dtype}"] = peers.network(ResNet18, (batch, 3, 224, 224), dtype)
        rows.append(row)
        say(f"ResNet-18, batch {batch}: {1e3 * taken:.3f} ms")
    return rows


def _time(value: float | str | None, unit: float = 1e6) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{unit * value:.2f}"


def markdown(result: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"# {result['device']}", "", f"{result['when']}, {result['machine']}", ""]
    if result["missing"]:
        lines += ["Missing:", "", *(f"- {text}" for text in result["missing"]), ""]
    if result["checks"]:
        failed = sum(not row["passed"] for row in result["checks"])
        lines += [f"## Kernels: {len(result['checks']) - failed} right, {failed} wrong", ""]
        lines += ["| what | against | largest difference | |", "|---|---|---:|---|"]
        for row in result["checks"]:
            lines.append(
                f"| {row['what']} | {row['against']} | {row['error']:.3g} | {'ok' if row['passed'] else 'WRONG'} |"
            )
        lines.append("")
    if result["products"]:
        rate = result["bandwidth"]
        lines += [f"## Packed 2-bit products; memory read at {rate / 1e9:.0f} GB/s", ""]
        lines += ["Microseconds. Share: weight bytes a second over that bandwidth. Cold: weights from memory.", ""]
        names = list(peers.PEERS)
        lines.append(f"| outputs x inputs | batch | | **tern** | share | best variant | {' | '.join(names)} |")
        lines.append("|---|---:|---|---:|---:|---|" + "---:|" * len(names))
        for row in result["products"]:
            share = row["weight_bytes"] / row["seconds"] / rate
            cells = [f"{row['outputs']} x {row['inputs']}", str(row["batch"])]
            cells += [
                "cold" if row["weights_from_memory"] else "cached",
                f"**{_time(row['seconds'])}**",
                f"{share:.0%}",
            ]
            cells.append(f"{_time(row['best_seconds'])} ({row['best']})")
            for name in names:
                value = row["peers"][name]
                ratio = f" ({value / row['seconds']:.1f})" if isinstance(value, float) else ""
                cells.append("-" if isinstance(value, str) else f"{_time(value)}{ratio}")
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Aims at batch 1: {FASTER:g} times as fast as {PEER}, {SHARE:.0%} of the bandwidth.", ""]
        for aim in result["aims"]:
            faster = "not compared" if aim["faster"] is None else f"{aim['faster']:.2f} times"
            lines.append(f"- {aim['what']}: {faster}, {aim['share']:.0%}: {'met' if aim['met'] else 'NOT met'}")
        notes = {f"{n}: {v}" for row in result["products"] for n, v in row["peers"].items() if isinstance(v, str)}
        lines += ["", *(f"- {note}" for note in sorted(notes)), ""]
    if result["resnet18"]:
        lines += [
            "## ResNet-18, 224x224, 80 % zeros, milliseconds",
            "",
            "| batch | **tern** | torch float16 | torch bfloat16 |",
        ]
        lines.append("|---:|---:|---:|---:|")
        for row in result["resnet18"]:
            other = " | ".join(_time(row[f"torch {dtype}"], 1e3) for dtype in ("float16", "bfloat16"))
            lines.append(f"| {row['batch']} | **{1e3 * row['seconds']:.3f}** | {other} |")
    return "\n".join(lines).rstrip() + "\n"


def run(options: argparse.Namespace) -> int:
    """Does everything; 0 if all kernels are right and were measured, 1 if one is wrong, 2 if nothing was measured."""

    def say(text: str) -> None:
        print(text, flush=True)

    target, lacking = find_target()
    why = peers.missing()
    lacking += [f"Comparison with PyTorch: {why}"] if why else []
    for text in lacking:
        say(f"missing: {text}")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    result: dict[str, Any] = {"device": "no device", "when": time.strftime("%Y-%m-%d"), "machine": machine}
    result |= {"missing": lacking, "checks": [], "products": [], "bandwidth": None, "aims": [], "resnet18": []}
    status = 2
    if target is not None:
        result["device"] = kernels.program({"read": _nothing()}, target).device.name
        say(f"device: {result['device']} (target {target.name})")
        result["checks"] = check_kernels(target, say)
        status = 0 if all(row["passed"] for row in result["checks"]) else 1
    if target is not None and target.tvm["kind"] == "cuda" and not options.verify_only:
        result["bandwidth"] = kernels.bandwidth(target)
        say(f"memory: {result['bandwidth'] / 1e9:.0f} GB/s read")
        result["products"] = measure_products(target, say)
        result["aims"] = aims(result["products"], result["bandwidth"])
        result["resnet18"] = measure_resnet(target, options.batches, say)
    elif not options.verify_only:
        result["missing"].append("no times: there is no NVIDIA processor that the kernels could be measured on")
        say(f"missing: {result['missing'][-1]}")
        status = max(status, 2)
    write(options.output, result)
    say(f"written: {options.output / 'gpu.json'}, {options.output / 'gpu.md'}")
    return status


def _nothing() -> kernels.Kernel:
    def body(e: Any, group: Any, t: Any, out: Any) -> None:
        e.store(out, t, e.const(0, "uint32"))

    return kernels.Kernel([kernels.Argument("out", "uint32", 32)], (1, 1, 1), 32, body)


def write(folder: Path, result: dict[str, Any]) -> None:
    """Writes both files."""
    for name, text in (("gpu.json", json.dumps(result, indent=1) + "\n"), ("gpu.md", markdown(result))):
        write_file(folder / name, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.measure", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="directory of the report (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="of ResNet-18 (default: 1 64)")
    parser.add_argument("--verify-only", action="store_true", help="check the kernels and measure nothing")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
