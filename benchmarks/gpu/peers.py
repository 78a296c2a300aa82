"""The same products by PyTorch and by what else is installed; every peer says why where it cannot be measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.kernels import COLD_BYTES


def missing() -> str | None:
    """Why PyTorch cannot measure here; None if it can."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch is not installed ({error})"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no CUDA device (a CPU build, or no driver)"
    return None


def _seconds(calls: list[Callable[[], Any]], least: float = 0.05) -> float:
    """Mean time of a call, all of them in one CUDA graph, as the kernels beside them are measured."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls[:3]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()

    def run(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            graph.replay()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    run(2)
    count = max(1, round(least / max(run(1), 1e-7)))
    return min(run(count) for _ in range(5)) / (count * len(calls))


def _float(dtype: str) -> Callable[[int, int, int, int], list[Callable[[], Any]]]:
    def make(batch: int, inputs: int, outputs: int, copies: int) -> list[Callable[[], Any]]:
        import torch

        kind = getattr(torch, dtype)
        x = torch.randn(batch, inputs, device="cuda", dtype=kind)
        weights = [torch.randn(outputs, inputs, device="cuda", dtype=kind) for _ in range(copies)]
        return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]  # type: ignore[misc]

    return make


def _int8(batch: int, inputs: int, outputs: int, copies: int) -> list[Callable[[], Any]]:
    import torch

    rows = max(32, batch)  # torch._int_mm refuses fewer than 17
    x = torch.randint(-128, 128, (rows, inputs), device="cuda", dtype=torch.int8)
    weights = [torch.randint(-128, 128, (outputs, inputs), device="cuda", dtype=torch.int8) for _ in range(copies)]
    return [lambda w=w: torch._int_mm(x, w.t()) for w in weights]  # type: ignore[misc]


def _int4(batch: int, inputs: int, outputs: int, copies: int) -> list[Callable[[], Any]]:
    import torch

    group = 128
    x = torch.randn(batch, inputs, device="cuda", dtype=torch.bfloat16)
    values = torch.randint(0, 255, (outputs, inputs // 2), device="cuda", dtype=torch.uint8)
    packed = torch._convert_weight_to_int4pack(values, 8)
    weights = [packed.clone() for _ in range(copies)]
    scales = torch.ones(inputs // group, outputs, 2, device="cuda", dtype=torch.bfloat16)
    return [lambda w=w: torch._weight_int4pack_mm(x, w, group, scales) for w in weights]  # type: ignore[misc]


def _bitsandbytes(batch: int, inputs: int, outputs: int, copies: int) -> list[Callable[[], Any]]:
    import bitsandbytes as bnb  # type: ignore[import-not-found,unused-ignore]
    import torch

    x = torch.randn(batch, inputs, device="cuda", dtype=torch.float16)
    weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.float16)
    made = [bnb.functional.quantize_4bit(weight, quant_type="nf4") for _ in range(copies)]
    return [lambda q=q, s=s: bnb.matmul_4bit(x, q.t(), quant_state=s) for q, s in made]  # type: ignore[misc]


def _gemlite(batch: int, inputs: int, outputs: int, copies: int) -> list[Callable[[], Any]]:
    import torch
    from gemlite.core import DType, GemLiteLinear  # type: ignore[import-not-found,unused-ignore]

    x = torch.randn(batch, inputs, device="cuda", dtype=torch.float16)
    group, made = 128, []
    for _ in range(copies):
        weight = torch.randint(0, 4, (outputs, inputs), device="cuda", dtype=torch.uint8)
        scales = torch.ones(outputs, inputs // group, device="cuda", dtype=torch.float16)
        linear = GemLiteLinear(2, group, inputs, outputs, input_dtype=DType.FP16, output_dtype=DType.FP16)
        linear.pack(weight, scales, torch.ones_like(scales), None)
        made.append(linear)
    return [lambda m=m: m(x) for m in made]  # type: ignore[misc]


PEERS: dict[str, tuple[Callable[[int, int, int, int], list[Callable[[], Any]]], float]] = {
    "torch fp16 (cuBLAS)": (_float("float16"), 2.0),
    "torch bf16 (cuBLAS)": (_float("bfloat16"), 2.0),
    "torch int8 (_int_mm, at least 32 rows)": (_int8, 1.0),
    "torch int4 (_weight_int4pack_mm)": (_int4, 0.5),
    "bitsandbytes nf4": (_bitsandbytes, 0.5),
    "gemlite 2-bit": (_gemlite, 0.25),
}
"""What makes calls over several copies of a weight, and bytes a weight."""


def measure(batch: int, inputs: int, outputs: int, cold: bool) -> dict[str, float | str]:
    """Seconds of every peer, or why it was not measured."""
    why = missing()
    if why:
        return dict.fromkeys(PEERS, f"not measured: {why}")
    import torch

    found: dict[str, float | str] = {}
    for name, (make, size) in PEERS.items():
        copies = max(2, -(-COLD_BYTES // int(size * inputs * outputs))) if cold else 1
        try:
            calls = make(batch, inputs, outputs, copies)
            found[name] = _seconds(calls * max(1, 64 // len(calls)))
        except Exception as error:  # a peer that does not work here must not end the measurement
            found[name] = f"not measured: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        torch.cuda.empty_cache()
    return found


def network(make: Callable[[], Any], shape: tuple[int, ...], dtype: str) -> float | str:
    """Seconds of a torch network in channels-last order and a CUDA graph, or why it was not measured."""
    why = missing()
    if why:
        return f"not measured: {why}"
    import torch

    try:
        net = make().eval().to("cuda", getattr(torch, dtype), memory_format=torch.channels_last)
        x = torch.randn(shape, device="cuda", dtype=getattr(torch, dtype))
        x = x.contiguous(memory_format=torch.channels_last)
        torch.backends.cudnn.benchmark = True
        with torch.inference_mode():
            for _ in range(3):
                net(x)
            return _seconds([lambda: net(x)])
    except Exception as error:
        return f"not measured: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
