"""A classification task made on the spot: 62 characters, drawn in the fonts that are on the machine.

    python -m benchmarks.methods.glyphs --sheet glyphs.png

Images are 32x32 RGB with random affine distortion, colors, clutter and noise. No font family is in both parts, so that
a network has to know letters and not outlines; families with the same outlines under another name (Arimo and Liberation
Sans) count as one. Classes stay 62 although O and 0 or l and I are hardly told apart in many fonts: no network gets
everything right. Nothing is fetched; Debian's font packages give a few dozen families.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from PIL import __version__ as pillow_version

from benchmarks.methods.glyph_fonts import CELL, Face, Family, find_families, find_fonts, font_directories, sheet_of
from tvm_schedules.common.files import write_file

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
SIDE = 32
LAYOUT = 1
"""Counts changes of this file that give other images, so that an old cache is not taken for them."""

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """What the images depend on, besides the fonts.

    Attributes:
        train: Images to train on.
        test: Images to test on, from other families.
        seed: Of everything that is random.
        test_share: Share of the families that are for the test, in (0, 1).
        noise: Largest standard deviation of the noise, in steps of 8 bits.
        clutter: Most lines and neighboring characters in an image.

    Raises:
        ValueError: A field is out of range.
    """

    train: int = 24_000
    test: int = 6_000
    seed: int = 0
    test_share: float = 0.25
    noise: float = 24.0
    clutter: int = 3

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), got {self.test_share}")
        if self.noise < 0 or self.clutter < 0:
            raise ValueError(f"noise and clutter must be >= 0, got {self.noise} and {self.clutter}")


@dataclass(frozen=True)
class Glyphs:
    """The two parts: images ``[N, 3, 32, 32]`` uint8, labels ``[N]`` in 0 to 61, names of the families."""

    train: tuple[Pixels, Labels]
    test: tuple[Pixels, Labels]
    train_families: tuple[str, ...]
    test_families: tuple[str, ...]


def load(
    settings: Settings | None = None, cache: Path | None = None, directories: Sequence[Path] | None = None
) -> Glyphs:
    """Read the images from the cache, or draw them.

    Args:
        settings: What to draw; None for the defaults.
        cache: Directory of the cache; None for ``~/.cache/tern-lightning``.
        directories: Where fonts are; None for where a Linux system keeps them.

    Raises:
        RuntimeError: There are fewer than four families.
    """
    settings = settings or Settings()
    cache = cache or Path.home() / ".cache" / "tern-lightning"
    fonts = find_fonts(font_directories() if directories is None else directories)
    path = cache / f"glyphs-{_key(settings, fonts)}.npz"
    if not path.is_file():
        _write(path, draw(settings, find_families(CHARACTERS, fonts)))
    with np.load(path, allow_pickle=False) as found:
        return Glyphs(
            (found["train_images"], found["train_labels"]),
            (found["test_images"], found["test_labels"]),
            tuple(found["train_families"].tolist()),
            tuple(found["test_families"].tolist()),
        )


def split(families: Sequence[Family], settings: Settings) -> tuple[list[Family], list[Family]]:
    """Divide the families at random into those to train on and those to test on, at least two each.

    Raises:
        RuntimeError: There are fewer than four families.
    """
    if len(families) < 4:
        raise RuntimeError(
            f"found {len(families)} font families with all 62 characters, at least 4 are needed and a few dozen "
            "advisable. HINT: apt install fonts-dejavu fonts-freefont-ttf fonts-liberation fonts-urw-base35 fonts-lato "
            "fonts-roboto fonts-open-sans fonts-linuxlibertine fonts-texgyre fonts-cantarell fonts-comfortaa"
        )
    order = np.random.default_rng([settings.seed, 0]).permutation(len(families))
    held = min(max(round(settings.test_share * len(families)), 2), len(families) - 2)
    return [families[i] for i in sorted(order[held:])], [families[i] for i in sorted(order[:held])]


def draw(settings: Settings, families: Sequence[Family]) -> Glyphs:
    """Draw all images; the same settings, fonts and version of Pillow give the same ones."""
    known, unknown = split(families, settings)
    parts = []
    for part, (count, chosen) in enumerate(((settings.train, known), (settings.test, unknown)), 1):
        sheets = {face: sheet_of(face, CHARACTERS) for family in chosen for face in family.faces}
        images = np.empty((count, 3, SIDE, SIDE), np.uint8)
        labels = np.arange(count, dtype=np.int64) % len(CHARACTERS)
        for index in range(count):
            random = np.random.default_rng([settings.seed, part, index])
            images[index] = draw_one(random, int(labels[index]), chosen, sheets, settings)
        parts.append((images, labels))
    return Glyphs(parts[0], parts[1], tuple(f.name for f in known), tuple(f.name for f in unknown))


def draw_one(
    random: np.random.Generator,
    label: int,
    families: Sequence[Family],
    sheets: dict[Face, Pixels],
    settings: Settings,
) -> Pixels:
    """One image ``[3, 32, 32]`` of a character."""
    family = families[int(random.integers(len(families)))]
    sheet = sheets[family.faces[int(random.integers(len(family.faces)))]]
    ink, paper = _colors(random)
    # Clutter lies under the character; a neighbor is at least most of a cell away and shows its edge only.
    tilt = random.uniform(-30, 30, (3, 2, 1)) * np.linspace(-1, 1, SIDE)
    scene = paper[:, None, None] + tilt[:, 0, :, None] + tilt[:, 1, None, :]
    for _ in range(random.integers(settings.clutter + 1)):
        if random.random() < 0.5:
            angle, distance = random.uniform(0, 2 * np.pi), random.uniform(0.55, 0.8)
            shift = distance * np.cos(angle), distance * np.sin(angle)
            cover = _place(random, sheet[random.integers(len(sheet))], shift)
        else:
            cover = _line(random)
        scene += cover * (random.uniform(0, 255, (3, 1, 1)) - scene) * random.uniform(0.3, 0.9)
    cover = _place(random, sheet[label], tuple(random.uniform(-0.08, 0.08, 2)))
    scene += cover * (ink[:, None, None] - scene)
    scene += random.normal(0, random.uniform(0, settings.noise), scene.shape)
    return np.clip(np.rint(scene), 0, 255).astype(np.uint8)


def _place(random: np.random.Generator, glyph: Pixels, shift: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Coverage ``[32, 32]`` of a glyph after a random affine map; ``shift`` is in parts of the cell."""
    turn, shear = np.deg2rad(random.normal(0, 8)), random.normal(0, 0.12)
    zoom = random.uniform(0.8, 1.15) * np.exp(random.normal(0, 0.06, 2))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, shear], [0, 1]])
    inverse = np.linalg.inv(matrix @ np.diag(zoom))
    center = CELL / 2
    offset = center - inverse @ (center + CELL * np.asarray(shift))
    data = (*inverse[0], offset[0], *inverse[1], offset[1])
    image = Image.fromarray(glyph).transform((CELL, CELL), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(image.reduce(CELL // SIDE), np.float64) / 255


def _line(random: np.random.Generator) -> npt.NDArray[np.float64]:
    image = Image.new("L", (CELL, CELL))
    ends = [float(value) for value in random.uniform(0, CELL, 4)]
    ImageDraw.Draw(image).line(ends, fill=255, width=int(random.integers(1, 5)))
    return np.asarray(image.reduce(CELL // SIDE), np.float64) / 255


def _colors(random: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two colors whose brightness differs by at least a quarter of the scale."""
    while True:
        ink, paper = random.uniform(0, 255, (2, 3))
        if abs((ink - paper) @ (0.299, 0.587, 0.114)) >= 64:
            return ink, paper


def _key(settings: Settings, fonts: Sequence[Face]) -> str:
    text = json.dumps([LAYOUT, pillow_version, asdict(settings), sorted(face.digest for face in fonts)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, glyphs: Glyphs) -> None:
    content = io.BytesIO()
    np.savez(
        content,
        train_images=glyphs.train[0],
        train_labels=glyphs.train[1],
        test_images=glyphs.test[0],
        test_labels=glyphs.test[1],
        train_families=np.array(glyphs.train_families),
        test_families=np.array(glyphs.test_families),
    )
    write_file(path, content.getvalue())


def write_sheet(glyphs: Glyphs, path: Path) -> None:
    """Write a picture of the first test images, one column a character."""
    columns, rows = len(CHARACTERS), 8
    images = glyphs.test[0][: columns * rows].transpose(0, 2, 3, 1)
    page = Image.new("RGB", (columns * SIDE, rows * SIDE))
    for index, image in enumerate(images):
        page.paste(Image.fromarray(image), (index % columns * SIDE, index // columns * SIDE))
    page.save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the images and say what they are made of."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods.glyphs", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--train", type=int, default=Settings.train, help="images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=Settings.test, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None, help="directory (default: ~/.cache/tern-lightning)")
    parser.add_argument("--sheet", type=Path, default=None, help="write a picture of test images here")
    options = parser.parse_args(arguments)
    glyphs = load(Settings(train=options.train, test=options.test, seed=options.seed), options.cache)
    for name, images, families in (
        ("train", glyphs.train[0], glyphs.train_families),
        ("test", glyphs.test[0], glyphs.test_families),
    ):
        print(f"{name}: {len(images)} images of {len(families)} families: {', '.join(families)}")
    if options.sheet is not None:
        write_sheet(glyphs, options.sheet)


if __name__ == "__main__":
    main()
