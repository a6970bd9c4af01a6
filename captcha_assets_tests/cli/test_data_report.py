"""The data report, as one meets it: after an update, in the browser, when files come, go or are lost."""

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from captcha_assets import start_page
from captcha_assets.images import table_parts
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import run, succeeded

SELECT = ("update", "--select", "+key:data_report")


def write_batch(path: Path, rejects: tuple[str, ...]) -> None:
    """Write an archive of 60 images, one of them twice, and some files that are no images."""
    synthetic_batches.write_archive(path, 60, seed=1)
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.namelist()[0]
        archive.writestr(f"{Path(first).name[0]}_99999.png", archive.read(first))
        for name in rejects:
            archive.writestr(name, b"no image")


def page(home: Path) -> str:
    return (home / "artifacts" / "data_report" / "report.html").read_text()


def stages(home: Path) -> list[tuple[str, int]]:
    """Return what the page says is left after each step."""
    rows = re.findall(
        r'<tr><td>([\w ]+)</td><td class="number">([\d,]+)</td><td><div class="bar">', page(home)
    )
    return [(name, int(number.replace(",", ""))) for name, number in rows]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data-report") / "home"
    archive = home.with_name("first.zip")
    write_batch(archive, ("a_1.png", "<script>alert(1)</script>.png"))
    succeeded(home, "batch", "add", "first", str(archive))
    succeeded(home, *SELECT)
    return home


def test_the_report_counts_every_file_on_its_way_to_a_split(home: Path) -> None:
    assert stages(home) == [
        ("files", 63),
        ("usable", 61),
        ("of batches that passed", 61),
        ("distinct", 60),
        ("of one label", 60),
        ("with a split", 60),
    ]


def test_the_report_shows_images_of_every_class_and_no_name_as_markup(home: Path) -> None:
    shown = page(home)
    assert {f"an image of class {name}" for name in "2345678abcdefgmnpwxy"} == set(
        re.findall(r'alt="(an image of class \w)"', shown)
    )
    assert "&lt;script&gt;alert(1)" in shown
    assert "<script>" not in shown
    assert "as the Java library Kaptcha draws them" in shown, "what the images show"
    assert "Licence of the images: not stated" in shown
    assert "http" not in shown, "a page that needs nothing beside it"


def test_the_report_follows_a_batch_whose_images_stay_and_whose_rejected_files_change(home: Path) -> None:
    archive = home.with_name("first.zip")
    write_batch(archive, ("a_1.png", "b_2.png", "c_3.png"))
    succeeded(home, "batch", "add", "first", str(archive))
    assert "data_report" in succeeded(home, *SELECT)
    assert stages(home)[:2] == [("files", 64), ("usable", 61)]
    assert "everything is up to date" in succeeded(home, *SELECT)


def test_the_report_states_its_data_versions_and_the_start_page_says_when_the_tables_are_newer(
    home: Path,
) -> None:
    paths = Paths(home=home)
    for table in (paths.image_index, paths.splits):
        assert f"{table.name} {table_parts.version_of(table)}" in page(home)

    def listed() -> str:
        shown = start_page.page(Settings(paths=paths))
        row = re.search(r"<tr>.*?data_report/report.html.*?</tr>", shown)
        assert row, shown
        return row[0]

    assert re.search(r">\d{4}-\d\d-\d\d \d\d:\d\d UTC ", listed()), "when it was written"
    assert "stale" not in listed()
    succeeded(home, "batch", "add", "newer", "synthetic:40:8")
    succeeded(home, "update", "--select", "+key:splits")
    assert "stale, the tables are newer: captcha-assets update" in listed()
    succeeded(home, "batch", "remove", "newer")
    succeeded(home, *SELECT)
    assert "stale" not in listed()
    assert "up to date" in listed()
    with zipfile.ZipFile(
        home / "bad.zip", "w"
    ) as archive:  # it is quarantined, so that the index stays as it is
        for number in range(20):
            archive.writestr(f"a_{number}.png", b"no image")
    succeeded(home, "batch", "add", "bad", str(home / "bad.zip"))
    run(home, "update", "--select", "+key:splits")
    assert "stale" in listed()
    succeeded(home, "batch", "remove", "bad")
    succeeded(home, *SELECT)


def test_the_start_page_is_shown_whatever_lies_in_place_of_the_tables(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "artifacts", tmp_path / "artifacts", symlinks=True)
    paths = Paths(home=tmp_path)
    shutil.rmtree(paths.image_index)
    paths.image_index.write_bytes(b"damaged")
    paths.label_conflicts.unlink(missing_ok=True)
    paths.label_conflicts.mkdir()
    shown = start_page.page(Settings(paths=paths))
    assert "its tables cannot be read: captcha-assets status" in shown
    assert "labels contradict" not in shown
    paths.data_report.unlink()
    os.mkfifo(paths.data_report)  # a reader would wait for ever
    assert "its tables cannot be read" in start_page.page(Settings(paths=paths))


@pytest.mark.slow
def test_a_lost_report_is_written_again_with_the_same_bytes_and_a_removed_batch_leaves_it(home: Path) -> None:
    file = home / "artifacts" / "data_report" / "report.html"
    before = file.read_bytes()
    file.unlink()
    assert "data_report" in succeeded(home, *SELECT)
    assert file.read_bytes() == before

    succeeded(home, "batch", "add", "second", "synthetic:40:7")
    succeeded(home, *SELECT)
    assert stages(home)[-1] == ("with a split", 100)
    succeeded(home, "batch", "remove", "second")
    succeeded(home, *SELECT)
    assert stages(home)[-1] == ("with a split", 60)
    assert ">second<" not in page(home)


@pytest.mark.slow
def test_a_quarantined_batch_is_counted_and_named_and_none_of_its_images_has_a_split(home: Path) -> None:
    bad = home.with_name("bad.zip")
    with zipfile.ZipFile(bad, "w") as archive:
        for number in range(10):
            archive.writestr(f"a_{number}.png", b"no image")
    before = stages(home)
    succeeded(home, "batch", "add", "bad", str(bad))
    assert "quarantined" in run(home, *SELECT).stdout
    assert stages(home)[0][1] == before[0][1] + 10
    assert stages(home)[-1] == before[-1]
    assert "quarantined" in page(home)
