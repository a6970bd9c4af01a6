"""The built-in generator: deterministic to the byte, complete or absent, and like the real thing."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captcha_assets.dataset import CAPTCHA
from captcha_assets.sources import kaptcha_renderer
from captcha_assets.sources.synthetic_batches import (
    GeneratorError,
    check_drawn,
    generate,
    render,
    write_archive,
)

#: The committed `data.dvc` is the hash of such an archive: a new value here means a new one there.
RECORDED = "cf55a8817956e691fc3f153c0d79d685ce6978ff24aee232720cff813bf377f4"


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "archive.zip"
    write_archive(path, 420, seed=3)
    return path


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"classes": ("0", "1")}, "its classes are 01"),
        ({"width": 48}, "its images are 48x52"),
        ({"formats": ("jpeg",)}, "its files are named <label>_<n>.jpg or <label>_<n>.jpeg"),
        ({"label_from": "folder"}, "its files are named <label>/<any name>"),
    ],
)
def test_a_data_set_that_rejects_what_is_drawn_is_refused(changed, problem):
    with pytest.raises(GeneratorError, match=f"captcha_characters rejects them: {problem}; give a zip"):
        check_drawn(replace(CAPTCHA, class_shares=None, **changed))


def test_a_data_set_that_takes_what_is_drawn_and_more_is_accepted():
    more = replace(CAPTCHA, name="more", classes=(*CAPTCHA.classes, "z"), class_shares=None, channels=3)
    check_drawn(replace(more, width=48, other_sizes="resize", formats=("png", "jpeg")))


def test_the_archive_is_the_same_to_the_byte_on_every_machine(archive):
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == RECORDED


def test_the_bytes_depend_neither_on_threads_nor_on_the_processors_vector_instructions(archive, tmp_path):
    again = tmp_path / "again.zip"
    code = (
        "import sys, cv2, pathlib; cv2.setNumThreads(1)\n"
        "from captcha_assets.sources.synthetic_batches import write_archive\n"
        "write_archive(pathlib.Path(sys.argv[1]), 420, seed=3)"
    )
    plain = {
        "OMP_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
        "OPENCV_CPU_DISABLE": "AVX2,AVX,FMA3",
    }
    subprocess.run([sys.executable, "-c", code, again], check=True, env={**os.environ, **plain})
    assert again.read_bytes() == archive.read_bytes()


def test_no_position_in_a_wave_is_so_near_a_tie_that_processors_could_round_it_differently():
    waves = [
        kaptcha_renderer._water_positions(),
        *(kaptcha_renderer._ripple_positions(n) for n in range(len(kaptcha_renderer._RIPPLES))),
    ]
    places = np.stack([np.stack(wave) for wave in waves])
    assert np.array_equal(
        kaptcha_renderer._sixteenths(places - 1e-10), kaptcha_renderer._sixteenths(places + 1e-10)
    )


def test_the_archive_has_the_layout_of_the_kaggle_data_set(archive):
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in opened.infolist()} == {(2024, 1, 1, 0, 0, 0)}
    assert names == sorted(names)
    assert all(name.startswith("Dataset/") and CAPTCHA.label_of(name) in CAPTCHA.classes for name in names)
    numbers = [int(name.rpartition("_")[2].removesuffix(".png")) for name in names]
    assert sorted(numbers) == list(range(420))


def test_every_class_is_there_and_n_twice_as_often(archive):
    counts = Counter(map(CAPTCHA.label_of, _members(archive)))
    assert counts == {name: 40 if name == "n" else 20 for name in CAPTCHA.classes}


def test_an_image_is_the_same_in_the_archive_and_from_the_iterator(archive):
    members = _members(archive)
    for number, (label, image) in enumerate(generate(420, seed=3)):
        with Image.open(BytesIO(members[f"Dataset/{label}_{number}.png"])) as png:
            png.verify()
        with Image.open(BytesIO(members[f"Dataset/{label}_{number}.png"])) as png:
            assert png.mode == "L"
            assert np.array_equal(np.asarray(png), image)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**70))
def test_a_longer_batch_begins_with_the_images_of_a_shorter_one(first, more, seed):
    short, long = list(generate(first, seed)), list(generate(first + more, seed))
    assert len(short) == first
    assert len(long) == first + more
    for (label, image), (other_label, other) in zip(short, long, strict=False):
        assert label == other_label
        assert np.array_equal(image, other)


def test_another_seed_gives_other_images():
    seen = {image.tobytes() for seed in range(4) for _, image in generate(105, seed)}
    assert len(seen) == 4 * 105


def test_every_character_leaves_coverage_in_every_face():
    for face in (face for row in kaptcha_renderer.FACES for face in row):
        for label in CAPTCHA.classes:
            coverage, gap = kaptcha_renderer._glyph(label, face)
            assert coverage.max() > 200
            assert 10 <= coverage.shape[1] <= 36
            assert -2 <= gap <= 5


def test_the_widest_word_stays_inside_the_image():
    for seed in range(50):
        drawn, spans = kaptcha_renderer.draw("mmmmm", np.random.default_rng(seed))
        assert drawn.shape == (50, 200)
        assert all(left >= 0 and left + width <= 200 for left, width in spans)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CAPTCHA.classes), st.integers(0, 2**32))
def test_a_rendered_character_is_dark_on_a_light_ground(label, seed):
    image = render(label, np.random.default_rng(seed))
    assert image.shape == CAPTCHA.shape
    assert image.dtype == np.uint8
    assert image.min() < 60
    assert np.percentile(image, 90) > 150


def test_the_same_state_of_chance_renders_the_same_character():
    one, other = (render("g", np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (5, -1)])
def test_an_impossible_request_says_so_and_leaves_what_was_there(tmp_path, count, seed):
    target = tmp_path / "archive.zip"
    target.write_bytes(b"before")
    with pytest.raises(GeneratorError):
        write_archive(target, count, seed)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]


def test_a_label_outside_the_alphabet_is_rejected():
    with pytest.raises(GeneratorError, match="label 'q'"):
        render("q", np.random.default_rng(0))


def test_importing_the_generator_loads_no_training_library():
    module = "captcha_assets.sources.synthetic_batches"
    code = f"import sys, {module}; print({{'torch', 'polars'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
