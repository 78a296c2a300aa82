"""The drawn characters, in the few fonts that come with matplotlib."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="Pillow draws the characters")

from benchmarks.methods import glyphs
from benchmarks.methods.glyph_fonts import CELL, Family, find_families, find_fonts, sheet_of
from benchmarks.methods.glyphs import CHARACTERS, Settings, draw, load, split

SMALL = Settings(train=124, test=62)
PLAIN = replace(SMALL, noise=0.0, clutter=0)


@pytest.fixture(scope="module")
def fonts() -> Path:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        pytest.skip("matplotlib, whose fonts these tests use, is not installed")
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"


@pytest.fixture(scope="module")
def families(fonts: Path) -> list[Family]:
    return find_families(CHARACTERS, find_fonts([fonts]))


def test_families_are_letters_and_one_design_is_one_family(families: list[Family]) -> None:
    names = [family.name for family in families]
    assert any("DejaVu Sans = DejaVu Sans Mono" in name for name in names)
    assert any("STIX" in name for name in names)
    assert any("cmtt10" in name for name in names)
    files = {face.path.name for family in families for face in family.faces}
    # Mathematical symbols, delimiters and ornaments under the codes of letters.
    assert not files & {"cmsy10.ttf", "cmex10.ttf", "STIXSizOneSymReg.ttf", "STIXNonUni.ttf", "DejaVuSansDisplay.ttf"}


def test_copies_and_damaged_files_are_no_fonts_of_their_own(fonts: Path, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("one.ttf", "below/two.ttf"):
        shutil.copy(fonts / "DejaVuSans.ttf", tmp_path / name)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "notes.txt").write_text("no font either")
    [family] = find_families(CHARACTERS, find_fonts([tmp_path]))
    assert len(family.faces) == 1


def test_every_glyph_is_drawn_inside_its_cell(families: list[Family]) -> None:
    for family in families:
        sheet = sheet_of(family.faces[0], CHARACTERS)
        assert sheet.shape == (62, CELL, CELL)
        assert sheet.max((1, 2)).min() > 128
        assert sheet[:, :, [0, -1]].max() == 0, family.name


def test_parts_have_no_family_in_common(families: list[Family]) -> None:
    seen = set()
    for seed in range(5):
        train, test = split(families, replace(SMALL, seed=seed))
        assert min(len(train), len(test)) >= 2
        assert sorted(f.name for f in train + test) == [f.name for f in families]
        digests = [{face.digest for family in part for face in family.faces} for part in (train, test)]
        assert not digests[0] & digests[1]
        seen.add(tuple(f.name for f in test))
    assert len(seen) > 1


def test_images_depend_on_the_seed_alone(families: list[Family]) -> None:
    first, again, other = (draw(s, families) for s in (SMALL, SMALL, replace(SMALL, seed=1)))
    np.testing.assert_array_equal(first.train[0], again.train[0])
    np.testing.assert_array_equal(first.test[0], again.test[0])
    assert (first.train[0] != other.train[0]).mean() > 0.5
    assert first.train[0].shape == (124, 3, 32, 32)
    assert first.train[0].dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(first.train[1], minlength=62), 2)


def test_a_longer_set_begins_with_the_shorter_one(families: list[Family]) -> None:
    short, long = draw(SMALL, families), draw(replace(SMALL, train=186), families)
    np.testing.assert_array_equal(long.train[0][:124], short.train[0])


def test_images_show_their_label(families: list[Family]) -> None:
    made = draw(replace(PLAIN, train=310), families)
    # Independent of how scenes are composed: how far pixels are from the plane through the corners, against glyphs.
    sheets = np.mean([sheet_of(family.faces[0], CHARACTERS) for family in families], 0)
    small = sheets.reshape(62, 32, 2, 32, 2).mean((2, 4)).reshape(62, -1)
    images, share = made.train[0].astype(np.float64), np.linspace(0, 1, 32)
    down = images[:, :, :1, :1] * (1 - share[:, None]) + images[:, :, -1:, :1] * share[:, None]
    paper = down + (images[:, :, :1, -1:] - images[:, :, :1, :1]) * share
    away = np.abs(images - paper).sum(1).reshape(len(images), -1)
    likeness = np.array([[np.corrcoef(image, glyph)[0, 1] for glyph in small] for image in away])
    ranks = (likeness > likeness[np.arange(310), made.train[1]][:, None]).sum(1)
    assert (ranks < 6).mean() > 0.35  # by chance: 0.1


def test_noise_and_clutter_add_to_the_image(families: list[Family]) -> None:
    def roughness(settings: Settings) -> float:
        images = draw(settings, families).train[0].astype(np.float64)
        return float(np.abs(np.diff(images, axis=3)).mean())

    assert roughness(replace(PLAIN, noise=60.0)) > 2 * roughness(PLAIN)
    assert roughness(replace(PLAIN, clutter=6)) > 1.1 * roughness(PLAIN)


def test_cache(fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(SMALL, tmp_path, [fonts])
    monkeypatch.setattr(glyphs, "draw", lambda *_: pytest.fail("drawn again"))
    again = load(SMALL, tmp_path, [fonts])
    np.testing.assert_array_equal(first.test[0], again.test[0])
    assert again.test_families == first.test_families
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        load(replace(SMALL, noise=1.0), tmp_path, [fonts])
    assert len(list(tmp_path.iterdir())) == 1


def test_other_fonts_are_another_cache(fonts: Path, tmp_path: Path) -> None:
    own = tmp_path / "fonts"
    shutil.copytree(fonts, own)
    load(SMALL, tmp_path / "cache", [own])
    (own / "cmtt10.ttf").unlink()
    assert not any("cmtt10" in name for name in _names(load(SMALL, tmp_path / "cache", [own])))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def _names(found: glyphs.Glyphs) -> tuple[str, ...]:
    return found.train_families + found.test_families


def test_a_failed_write_leaves_nothing(fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object, **_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        load(SMALL, tmp_path, [fonts])
    assert not list(tmp_path.iterdir())


def test_too_few_fonts_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"found 0 font families.*apt install fonts-dejavu"):
        load(SMALL, tmp_path / "cache", [tmp_path])


@pytest.mark.parametrize(
    ("change", "named"), [({"train": 0}, "train"), ({"test_share": 1.0}, "test_share"), ({"noise": -1.0}, "noise")]
)
def test_settings_out_of_range(change: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(SMALL, **change)  # type: ignore[arg-type]
