"""Find fonts on the machine that draw a given set of characters, grouped by family."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

CELL = 64
"""Side of the square that a glyph is drawn into, twice that of the images."""
FONT_SIZE = 48
"""Size of the em, in pixels of the cell."""
FACES = 6
"""Most faces (regular, bold, italic ...) that are taken of a family."""
SAME_OUTLINES = 0.96
"""Correlation of all glyphs above which two families are taken for one."""
NEAR, LETTERS = 6, 0.58
"""A font draws letters if this share of its glyphs has its own character among so many that are most alike, on average
over all fonts."""
CONFUSABLE = ({"O", "0", "o"}, {"l", "I", "1"})
"""Characters that a good font may draw alike."""
VARIANTS = re.compile("mono|condensed|narrow|extended|light|thin|medium|demi|bold|black|book|italic|[^a-z]")
"""What in a family's name does not make it another design."""

Sheet = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """A font file, with the digest of its bytes."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Family:
    """Faces that are one design.

    Attributes:
        name: Name of the family; of several with the same outlines, all of them.
        faces: At most ``FACES`` of them.
    """

    name: str
    faces: tuple[Face, ...]


def font_directories() -> list[Path]:
    """Where Linux keeps fonts, and those that come with matplotlib, if it is installed."""
    home = Path.home()
    found = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts"]
    plot = importlib.util.find_spec("matplotlib")
    if plot is not None and plot.origin is not None:
        found.append(Path(plot.origin).parent / "mpl-data" / "fonts" / "ttf")
    return [directory for directory in found if directory.is_dir()]


def find_fonts(directories: Sequence[Path]) -> list[Face]:
    """All different ``.ttf``, ``.otf`` and ``.ttc`` files in directories and below."""
    found: dict[str, Face] = {}
    for directory in directories:
        for path in sorted(p for p in directory.rglob("*") if p.suffix.lower() in (".ttf", ".otf", ".ttc")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found.setdefault(digest, Face(path, digest))
    return list(found.values())


def find_families(characters: str, fonts: Sequence[Face]) -> list[Family]:
    """All usable families, sorted by name.

    A face is left out that lacks a character, draws two characters alike (small capitals), or draws something else than
    letters (symbols, other scripts), for which its glyphs are compared with the mean over all faces.

    Args:
        characters: What must be drawn.
        fonts: Where to look.
    """
    sheets: dict[str, dict[Face, Sheet]] = {}
    for face in fonts:
        try:
            name = str(ImageFont.truetype(str(face.path), FONT_SIZE).getname()[0])
            sheet = sheet_of(face, characters)
        except (OSError, ValueError):
            continue  # damaged, or without outlines of this size
        if _complete(sheet, face, characters):
            sheets.setdefault(name, {})[face] = sheet
    if not sheets:
        return []
    everything = [_features(sheet) for faces in sheets.values() for sheet in faces.values()]
    mean = np.mean(everything, axis=0)
    usable: dict[str, list[Face]] = {}
    first: dict[str, npt.NDArray[np.float32]] = {}
    for name, faces in sheets.items():
        kept = [face for face, sheet in faces.items() if _letters(_features(sheet), mean) >= LETTERS]
        if kept:
            usable[name] = kept
            first[name] = np.mean([_features(faces[face]) for face in kept], axis=0)
    return [_family(group, usable) for group in _same(first)]


def sheet_of(face: Face, characters: str) -> Sheet:
    """Coverage ``[characters, CELL, CELL]`` of all glyphs, baselines at one height, each centered across.

    Raises:
        OSError: The font cannot be read or drawn.
    """
    font = ImageFont.truetype(str(face.path), FONT_SIZE)
    baseline = round(0.74 * CELL)
    sheet = np.zeros((len(characters), CELL, CELL), np.uint8)
    for index, character in enumerate(characters):
        image = Image.new("L", (CELL, CELL))
        left, _, right, _ = font.getbbox(character, anchor="ls")
        place = (CELL / 2 - (left + right) / 2, baseline)
        ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="ls")
        sheet[index] = np.asarray(image)
    return sheet


def _complete(sheet: Sheet, face: Face, characters: str) -> bool:
    """Whether every character is drawn, fits into its cell and differs from the others and from the missing glyph."""
    ink = sheet.reshape(len(sheet), -1).astype(np.int64).sum(1) / 255
    if ink.min() < 10 or ink.max() > 0.6 * CELL * CELL:
        return False
    missing = sheet_of(face, "\uffff")[0]
    if any(np.array_equal(glyph, missing) for glyph in sheet):
        return False
    seen: dict[bytes, str] = {}
    for character, glyph in zip(characters, sheet, strict=True):
        twin = seen.setdefault(glyph.tobytes(), character)
        if twin != character and not any({twin, character} <= group for group in CONFUSABLE):
            return False
    return True


def _features(sheet: Sheet) -> npt.NDArray[np.float32]:
    """Glyphs at an eighth of the area, ``[characters, pixels]``, each with mean 0 and norm 1."""
    small = sheet.reshape(len(sheet), CELL // 4, 4, CELL // 4, 4).mean((2, 4), dtype=np.float32).reshape(len(sheet), -1)
    small -= small.mean(1, keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)


def _letters(glyphs: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]) -> float:
    """Share of glyphs that look like their character."""
    alike = glyphs @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
    return float(((alike > np.diag(alike)[:, None]).sum(1) < NEAR).mean())


def _likeness(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Mean over the characters of the correlation of two fonts' glyphs, in [-1, 1]."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(1) / np.maximum(norms, 1e-6)).mean())


def _same(features: dict[str, npt.NDArray[np.float32]]) -> list[list[str]]:
    """Names in groups of the same design: the same name but for variants, or the same outlines."""
    groups: list[list[str]] = []
    for name in sorted(features):
        near = [
            group
            for group in groups
            if any(
                _same_name(name, other) or _likeness(features[name], features[other]) >= SAME_OUTLINES
                for other in group
            )
        ]
        groups = [group for group in groups if group not in near] + [
            [*(other for group in near for other in group), name]
        ]
    return sorted(groups)


def _same_name(first: str, second: str) -> bool:
    """Whether names are equal but for variants, or one begins with the other."""
    short, long = sorted((VARIANTS.sub("", name.lower()) for name in (first, second)), key=len)
    return short == long or (len(short) >= 6 and long.startswith(short))


def _family(names: list[str], faces: dict[str, list[Face]]) -> Family:
    """One family of all faces of a group, a few of each name in turn, of styles at random."""
    ordered = [[*sorted(faces[name], key=lambda face: face.digest)] for name in names]
    turns = [pile[index] for index in range(FACES) for pile in ordered if index < len(pile)]
    return Family(" = ".join(names), tuple(turns[:FACES]))
