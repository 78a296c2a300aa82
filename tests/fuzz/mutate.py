"""Damage to well-formed inputs: of bytes, of JSON values, of zip files behind their checksums, of protobuf messages.

Everything is drawn from the ``random.Random`` that is given, so that a case can be repeated.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30),
    *(0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
]
TEXTS = ["", "x", "\0", "\ud800", "../../x", "/", "<f8", "|O", "²", "1e999", "\x1b[31m", "[red]", "x" * 5000]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"x": None}, [1, 2, 3], [[1, 1], [1, 1], [1, 1]]]
DEPTHS = [3, 60, 900, 1100, 100_000]
_DEEP = "deep nesting of "


def damaged(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Bytes with one to four of: flipped bits, a cut, missing, repeated, foreign or random parts, extreme numbers."""
    made = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        at = random.randrange(len(made) + 1)
        size = min(len(made) - at, 1 << random.randrange(10))
        kind = random.randrange(9)
        if kind <= 2 and made:
            for _ in range(random.choice([1, 1, 3])):
                made[random.randrange(len(made))] ^= 1 << random.randrange(8)
        elif kind == 3:
            del made[at:]
        elif kind == 4:
            del made[at : at + size]
        elif kind == 5:
            made[at:at] = made[at : at + size] * random.choice([1, 1, 50])
        elif kind == 6:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            made[at : at + random.choice([0, size])] = other[start : start + 1 + size]
        elif kind == 7:
            made[at:at] = random.randbytes(size)
        else:
            width = random.choice("bhiq")
            bits = 8 * struct.calcsize(width)
            number = random.choice([-1, 0, 1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), random.getrandbits(bits - 1)])
            made[at : at + bits // 8] = struct.pack(f"<{width}", number)
    return bytes(made)


def damaged_value(value: Any, random: Random) -> Any:
    """A JSON value in which one to three parts are missing, of another type, extreme, deep, or somewhere else."""
    holder = [copy.deepcopy(value)]
    for _ in range(random.choice([1, 1, 2, 3])):
        places = list(_places(holder))
        where, key = random.choice(places)
        kind = random.randrange(8)
        if kind == 0 and where is not holder:
            del where[key]
        elif kind == 1:
            other, name = random.choice(places)
            where[key] = copy.deepcopy(other[name])
        elif kind == 2 and isinstance(where, dict):
            where[random.choice([*TEXTS, *where])] = where.pop(key)
        elif kind == 3 and isinstance(where[key], list):
            where[key] = where[key] * random.choice([2, 100])
        elif kind == 4:
            where[key] = f"{_DEEP}{random.choice(DEPTHS)} {random.choice('[{')}"
        else:
            where[key] = copy.deepcopy(random.choice(random.choice([NUMBERS, NUMBERS, TEXTS, OTHERS])))
    return holder[0]


def _places(value: Any) -> Any:
    """Every container and key below a value, without what was put into a list a hundred times."""
    keys = value if isinstance(value, dict) else range(min(len(value), 30)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def json_text(value: Any) -> str:
    """JSON of a value of :func:`damaged_value`, in which the marks of deep nesting become that."""
    parts = json.dumps(value).split(f'"{_DEEP}')
    made = parts[:1]
    for part in parts[1:]:
        note, _, rest = part.partition('"')
        depth, bracket = note.split()
        opening, closing = {"[": ("[", "]"), "{": ('{"x":', "}")}[bracket]
        made.append(opening * int(depth) + "1" + closing * int(depth) + rest)
    return "".join(made)


def damaged_json(value: Any, random: Random) -> bytes:
    """The text of a damaged JSON value, or damaged text."""
    if random.random() < 0.2:
        text = json.dumps(value).encode()
        return damaged(text, [text], random)
    return json_text(damaged_value(value, random)).encode()


def damaged_zip(data: bytes, damage: Callable[[str, bytes, Random], bytes], random: Random) -> bytes:
    """A zip file with a damaged, missing, doubled or renamed entry and checksums that fit, or a damaged file.

    Args:
        data: The file.
        damage: Damages the content of the entry of this name.
        random: Of everything.
    """
    if random.random() < 0.3:
        return damaged(data, [data], random)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = [(entry.filename, file.read(entry), entry.compress_type) for entry in file.infolist()]
    place = random.randrange(len(entries))
    name, content, how = entries[place]
    kind = random.randrange(12)
    if kind == 0:
        del entries[place]
    elif kind == 1:
        entries.append((random.choice([name, f"{name}x", *(n for n, _, _ in entries)]), content, how))
    elif kind == 2:
        entries[place] = (random.choice(["x", "x.npy", "../x.npy", *(n for n, _, _ in entries)]), content, how)
    else:
        entries[place] = (name, damage(name, content, random), how)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, content, how in entries:
            file.writestr(zipfile.ZipInfo(name), content, how)
    return made.getvalue()


def damaged_npy(name: str, data: bytes, random: Random) -> bytes:
    """An array file with another header, or with damaged bytes."""
    kind = random.randrange(4)
    if kind == 0:
        return damaged(data, [data], random)
    if kind == 1:
        return data[:128] + damaged(data[128:], [data], random)
    dtype = random.choice(
        ["<f8", "|u1", "<i4", "|O", "|b1", "<U9", "<c16", "|V0", "<M8[ns]", "[('a', '<f4')]", "x", ""]
    )
    shape = random.choice(
        ["()", "(3,)", "(0,)", "(-1,)", "(2, 3)", "(10**9, 10**9)", "(99999999999,)", "None", "(1.5,)"]
    )
    order = random.choice(["False", "True", "1"])
    written = dtype if dtype.startswith("[") else repr(dtype)
    header = f"{{'descr': {written}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if random.random() < 0.1:
        header = "(" * random.choice([50, 5000]) + header
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data[128:]


def damaged_message(message: Any, random: Random) -> bytes:
    """Bytes of a protobuf message in which one to three fields have other values, are missing, doubled or exchanged."""
    made = type(message)()
    made.CopyFrom(message)
    for _ in range(random.choice([1, 1, 2, 3])):
        owner, field = random.choice(list(_fields(made)))
        _damage_field(owner, field, random)
    data = made.SerializePartialToString()
    return damaged(data, [data], random) if random.random() < 0.05 else data


def _fields(message: Any) -> Any:
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            for part in value if _repeated(message, field) else [value]:
                yield from _fields(part)


def _repeated(message: Any, field: Any) -> bool:
    return not hasattr(type(getattr(message, field.name)), "HasField") and hasattr(
        getattr(message, field.name), "extend"
    )


def _damage_field(owner: Any, field: Any, random: Random) -> None:
    if _repeated(owner, field):
        items = getattr(owner, field.name)
        place = random.randrange(len(items))
        kind = random.randrange(5)
        if kind == 0:
            del items[place]
        elif kind == 1 and field.type == field.TYPE_MESSAGE:
            items.add().CopyFrom(items[place])
        elif kind == 2 and len(items) > 1 and field.type == field.TYPE_MESSAGE:
            other = random.randrange(len(items))
            kept = type(items[place])()
            kept.CopyFrom(items[place])
            items[place].CopyFrom(items[other])
            items[other].CopyFrom(kept)
        elif field.type == field.TYPE_MESSAGE:
            inner = list(_fields(items[place]))
            if inner:
                _damage_field(*random.choice(inner), random)
        elif kind == 3:
            items.append(_scalar(field, items[place], random))
        else:
            items[place] = _scalar(field, items[place], random)
    elif field.type == field.TYPE_MESSAGE or random.random() < 0.2:
        owner.ClearField(field.name)
    else:
        setattr(owner, field.name, _scalar(field, getattr(owner, field.name), random))


def _scalar(field: Any, value: Any, random: Random) -> Any:
    if field.type == field.TYPE_STRING:
        operators = ["Add", "Conv", "Gemm", "Reshape", "DequantizeLinear", "QuantizeLinear", "Flatten", "Relu", "Loop"]
        return random.choice(["", "x", f"{value}x", value[: len(value) // 2], "\x1b[31m", "../x", *operators])
    if field.type == field.TYPE_BYTES:
        return damaged(value, [value], random)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return random.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), -value])
    if field.type == field.TYPE_BOOL:
        return not value
    if field.type == field.TYPE_ENUM:
        return random.choice([known.number for known in field.enum_type.values])
    bits = 31 if field.type == field.TYPE_INT32 else 63
    return random.choice([0, 1, 2, 3, 5, 10, 21, 26, value + 1, 2 * value, 10**6, 2**bits - 1, -1, -(2**bits)])
