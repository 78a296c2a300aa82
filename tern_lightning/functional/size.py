"""How many bytes a ternary weight takes: the bound of its entropy, and formats that are really written."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import meant
from tvm_schedules.ir import ternary_codec as huffman

Format = Literal["two_bit", "mask_sign", "trits", "csr", "huffman"]
FORMATS: tuple[Format, ...] = get_args(Format)


def code_bytes(ternary: TernaryTensor, form: Format) -> int | None:
    """Bytes of the codes of all terms in a format; None where the format cannot hold them.

    For a term of n weights, z of them not zero, in rows of output channels: ``two_bit`` n/4, ``mask_sign`` n/8 + z/8,
    ``trits`` n/5 (five codes a byte), ``csr`` 2 z + z/8 + 2 (rows + 1) (16-bit columns and row starts, sign bits; at
    most 65535 non-zero weights and 65536 columns). Every part is rounded up to bytes. ``huffman``, in which exported
    libraries keep codes, has no formula, but is close to the entropy; see :mod:`tvm_schedules.ir.ternary_codec`.

    Raises:
        ValueError: There is no such format.
    """
    if form not in FORMATS:
        raise ValueError(f"form must be one of {FORMATS}, got {form!r}{meant(form, FORMATS)}")
    if form == "huffman":
        return len(encode(ternary, form))
    total = 0
    for term in ternary.codes:
        n, z, rows = term.numel(), int((term != 0).sum()), term.shape[ternary.channel_axis]
        if form == "csr" and (z > 0xFFFF or n // max(rows, 1) > 0x10000):
            return None
        total += {
            "two_bit": -(-n // 4),
            "mask_sign": -(-n // 8) - (-z // 8),
            "trits": -(-n // 5),
            "csr": 2 * z - (-z // 8) + 2 * (rows + 1),
        }[form]
    return total


def encode(ternary: TernaryTensor, form: Format) -> bytes:
    """Write the codes of all terms, one after another, in a format of :func:`code_bytes`.

    Raises:
        ValueError: There is no such format, or it cannot hold the codes.
    """
    if form == "huffman":
        return huffman.encode(ternary.codes.cpu().numpy()).tobytes()
    if code_bytes(ternary, form) is None:
        raise ValueError(f"format {form!r} holds at most 65535 non-zero weights in rows of at most 65536")
    return b"".join(_encode(term.movedim(ternary.channel_axis, 0).flatten(1).cpu(), form) for term in ternary.codes)


def decode(data: bytes, shape: tuple[int, ...], terms: int, form: Format, channel_axis: int = 0) -> Tensor:
    """Read the codes that :func:`encode` wrote, int8 ``[terms, *shape]``."""
    if form == "huffman":
        joint = huffman.decode(np.frombuffer(data, np.uint8), terms, math.prod(shape))
        return torch.from_numpy(joint).reshape(terms, *shape)
    moved = torch.empty(shape, device="meta").movedim(channel_axis, 0).shape
    found = []
    rest = torch.tensor(list(data), dtype=torch.uint8)
    for _ in range(terms):
        codes, used = _decode(rest, moved[0], moved.numel() // max(moved[0], 1), form)
        rest = rest[used:]
        found.append(codes.reshape(moved).movedim(0, channel_axis))
    return torch.stack(found)


def entropy_bytes(ternary: TernaryTensor) -> float:
    """Bytes of the codes under an ideal code for independent weights, a lower bound of formats without a search.

    ``huffman`` may be shorter where weights are not independent, as with pruned channels.
    """
    return ternary.entropy() * ternary.codes[0].numel() / 8


def level_bytes(ternary: TernaryTensor) -> int:
    """Bytes of the levels as float32, once where both signs share them."""
    return 4 * ternary.positive.numel() * (1 if ternary.is_symmetric else 2)


def stored_bytes(ternary: TernaryTensor) -> int:
    """Bytes in the smallest of the formats, levels included."""
    sizes = (code_bytes(ternary, form) for form in FORMATS)
    return min(size for size in sizes if size is not None) + level_bytes(ternary)


def compression(ternary: TernaryTensor) -> dict[str, float]:
    """How many times smaller than float32 a weight is, levels included.

    Returns:
        ``entropy``: under an ideal code (nothing is written like that); ``packed``: in two-bit codes; ``stored``: in
        the smallest of the formats.
    """
    n, levels = 4 * ternary.codes[0].numel(), level_bytes(ternary)
    return {
        "entropy": n / (entropy_bytes(ternary) + levels),
        "packed": n / ternary.nbytes(),
        "stored": n / stored_bytes(ternary),
    }


def _bits(flags: Tensor) -> bytes:
    """Eight flags a byte, the first in the least significant bit."""
    padded = torch.nn.functional.pad(flags.flatten().to(torch.uint8), (0, -flags.numel() % 8)).reshape(-1, 8)
    return bytes((padded << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8).tolist())


def _flags(data: Tensor, count: int) -> tuple[Tensor, int]:
    used = -(-count // 8)
    return ((data[:used, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:count].bool(), used


def _encode(rows: Tensor, form: Format) -> bytes:
    flat = rows.flatten()
    if form == "two_bit":
        return bytes(TernaryTensor(flat[None, None], torch.ones(1, 1), torch.ones(1, 1)).pack().flatten().tolist())
    if form == "trits":
        digits = torch.nn.functional.pad(flat.long() + 1, (0, -flat.numel() % 5)).reshape(-1, 5)
        return bytes((digits * 3 ** torch.arange(5)).sum(1).tolist())
    signs = _bits(flat[flat != 0] > 0)
    if form == "mask_sign":
        return _bits(flat != 0) + signs
    starts = torch.nn.functional.pad((rows != 0).sum(1).cumsum(0), (1, 0))
    columns = torch.nonzero(rows)[:, 1]
    return b"".join(int(value).to_bytes(2, "little") for value in [*starts.tolist(), *columns.tolist()]) + signs


def _decode(data: Tensor, rows: int, columns: int, form: Format) -> tuple[Tensor, int]:
    """The codes ``[rows, columns]`` of one term, and the bytes that they took."""
    count = rows * columns
    if form == "two_bit":
        used = -(-count // 4)
        pairs = ((data[:used, None] >> torch.arange(0, 8, 2, dtype=torch.uint8)) & 3).flatten()[:count].to(torch.int8)
        return torch.where(pairs == 3, -torch.ones_like(pairs), pairs).reshape(rows, columns), used
    if form == "trits":
        used = -(-count // 5)
        digits = data[:used, None].long() // 3 ** torch.arange(5) % 3 - 1
        return digits.flatten()[:count].to(torch.int8).reshape(rows, columns), used
    if form == "mask_sign":
        chosen, used = _flags(data, count)
    else:
        words = data[: 2 * (rows + 1)].reshape(-1, 2).long() @ torch.tensor([1, 256])
        used = 2 * (rows + 1) + 2 * int(words[-1])
        where = data[2 * (rows + 1) : used].reshape(-1, 2).long() @ torch.tensor([1, 256])
        row = torch.arange(rows).repeat_interleave(words[1:] - words[:-1])
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[row * columns + where] = True
    signs, more = _flags(data[used:], int(chosen.sum()))
    codes = torch.zeros(count, dtype=torch.int8)
    codes[chosen] = signs.to(torch.int8) * 2 - 1
    return codes.reshape(rows, columns), used + more
