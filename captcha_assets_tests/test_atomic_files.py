"""Files and folders are complete or absent, whoever is killed and whatever fails."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from upath import UPath

from captcha_assets.atomic_files import fetched, replacing, replacing_folder, write_json
from captcha_assets_tests.writers import SIZE, WRITE, Writers, generation_of

BOTH = pytest.mark.parametrize("how", ["file", "folder"])


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with Writers() as running:
        yield running


def _left_over(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


# --- one writer


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.parquet"
    with replacing(target) as part:
        part.write_bytes(b"half")
        assert not target.exists()
        part.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert _left_over(target.parent) == []


def test_the_temporary_file_keeps_the_name_that_libraries_read_the_format_from(tmp_path: Path) -> None:
    with replacing(tmp_path / "plot.png") as part:
        assert part.name == "plot.png"
        part.write_bytes(b"")


@BOTH
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, how: str) -> None:
    target = tmp_path / "thing"
    WRITE[how](target, 1)
    replace = replacing if how == "file" else replacing_folder
    with pytest.raises(RuntimeError, match="the disk caught fire"), replace(target) as part:  # noqa: PT012
        (part if how == "file" else part / "a").write_bytes(b"half")
        raise RuntimeError("the disk caught fire")
    assert generation_of(target) == 1
    assert _left_over(tmp_path) == []


def test_a_replaced_folder_holds_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("old", "new"):
        with replacing_folder(target) as part:
            (part / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["new"]


def test_a_file_in_a_folder_being_written_can_itself_be_replaced(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "model") as part:
        write_json(part / "config.json", {"classes": 20})
        with replacing(part / "nested" / "weights") as weights:
            write_json(weights, [1, 2])
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"classes": 20}
    assert json.loads((tmp_path / "model" / "nested" / "weights").read_text()) == [1, 2]


def test_the_same_json_gives_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"a": 1, "b": "ä"})
    write_json(tmp_path / "two.json", {"b": "ä", "a": 1})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_name_with_pattern_characters_is_only_a_name(tmp_path: Path, writers: Writers) -> None:
    target = tmp_path / "a[b]*?"
    _kill_in_the_middle(writers, "file", target)
    WRITE["file"](target, 3)
    assert generation_of(target) == 3
    assert _left_over(tmp_path) == []


# --- killed writers


def _kill_in_the_middle(writers: Writers, how: str, target: Path) -> None:
    """Kill a writer of `target` that has begun and not ended."""
    while not (target.parent.is_dir() and _left_over(target.parent)):
        pid = writers.start(how, target, 1)
        time.sleep(random.uniform(0, 0.01))
        writers.kill(pid)


@BOTH
def test_a_target_is_complete_or_absent_after_every_kill(tmp_path: Path, writers: Writers, how: str) -> None:
    target = tmp_path / "thing"
    seed = random.randrange(1_000_000)
    print(f"{seed=}")
    chance = random.Random(seed)
    for generation in range(60):
        pid = writers.start(how, target, generation)
        time.sleep(chance.uniform(0, 0.015))
        writers.kill(pid)
        assert len(_left_over(tmp_path)) <= 1, "a writer sweeps what the one before it left"
        if target.exists():
            generation_of(target)
    WRITE[how](target, 200)
    assert generation_of(target) == 200
    assert _left_over(tmp_path) == []


def test_only_a_dead_writers_file_is_swept(tmp_path: Path, writers: Writers) -> None:
    target = tmp_path / "thing"
    with replacing(target) as living:
        living.write_bytes(b"mine")
        _kill_one_beside(writers, target)
        assert len(_left_over(tmp_path)) == 2
        WRITE["file"](target, 7)
        assert generation_of(target) == 7
        assert _left_over(tmp_path) == [living.parent.parent]
    assert target.read_bytes() == b"mine"
    assert _left_over(tmp_path) == []


def _kill_one_beside(writers: Writers, target: Path) -> None:
    before = len(_left_over(target.parent))
    while len(_left_over(target.parent)) == before:
        pid = writers.start("file", target, 1)
        time.sleep(random.uniform(0, 0.01))
        writers.kill(pid)


def test_another_targets_dead_writer_does_no_harm(tmp_path: Path, writers: Writers) -> None:
    _kill_in_the_middle(writers, "file", tmp_path / "a.b")
    WRITE["file"](tmp_path / "a", 1)
    WRITE["file"](tmp_path / "a.b", 2)
    assert generation_of(tmp_path / "a") == 1
    assert generation_of(tmp_path / "a.b") == 2
    assert _left_over(tmp_path) == []


# --- several writers at once


@pytest.mark.parametrize(("how", "rounds"), [("file", 30), ("folder", 30), ("small_folder", 200)])
def test_processes_that_replace_the_same_target_at_once_do_not_disturb_each_other(
    tmp_path: Path, writers: Writers, how: str, rounds: int
) -> None:
    target = tmp_path / "thing"
    pids = [writers.start(how, target, 300 * number, rounds) for number in range(3)]
    assert [writers.wait(pid) for pid in pids] == [0, 0, 0]
    last = {(300 * number + rounds - 1) % 256 for number in range(3)}
    assert generation_of(target) in last, "one of them wrote last"
    assert _left_over(tmp_path) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path, writers: Writers) -> None:
    target = tmp_path / "thing"
    WRITE["file"](target, 0)
    pids = [writers.start("file", target, 0) for _ in range(2)]
    seen: set[int] = set()
    while len(seen) < 20:  # as long as it takes the writers to write while we read
        content = target.read_bytes()
        assert content == content[:1] * SIZE, "a whole file, of one writer"
        seen.add(content[0])
    for pid in pids:
        writers.kill(pid)


# --- a full disk

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from captcha_assets_tests.writers import SIZE, WRITE
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
try:
    WRITE[sys.argv[1]](Path(sys.argv[2]), 2)
except OSError as error:
    sys.exit(f"could not write: {error.strerror}")
"""


@BOTH
def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path, how: str) -> None:
    target = tmp_path / "thing"
    WRITE[how](target, 1)
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, how, str(target)], capture_output=True, text=True, check=False
    )
    words = "no space left on the disk or in the quota: free some and run it again"
    assert (ended.returncode, ended.stderr) == (1, f"could not write: {words}\n")
    assert generation_of(target) == 1
    assert _left_over(tmp_path) == []


# --- an object store


def _names(folder: UPath) -> list[str]:
    folder.fs.invalidate_cache()
    return sorted(name.removeprefix(folder.path).lstrip("/") for name in folder.fs.find(folder.path))


def test_a_table_written_to_an_object_store_is_read_by_polars(bucket: UPath) -> None:
    target = bucket / "image_table" / "starter.parquet"
    table = pl.DataFrame({"label": ["a", "b"], "pixels": [b"\x00" * 4, b"\x01" * 4]})
    with replacing(target) as part:
        table.write_parquet(part)
    assert pl.scan_parquet(str(target)).collect().equals(table)
    with fetched(target) as copy:
        assert pl.read_parquet(copy).equals(table)


def test_an_object_stays_as_it_was_when_writing_fails(bucket: UPath) -> None:
    target = bucket / "pointer.json"
    write_json(target, {"model": "first"})
    with pytest.raises(RuntimeError), replacing(target) as part:  # noqa: PT012
        part.write_text("half")
        raise RuntimeError("stopped")
    assert json.loads(target.read_text()) == {"model": "first"}


def _write_model(target: UPath, names: list[str]) -> None:
    with replacing_folder(target) as part:
        for name in names:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(name)


def test_a_folder_on_an_object_store_is_replaced_as_a_whole(bucket: UPath) -> None:
    target = bucket / "models" / "one"
    _write_model(target, ["manifest.json", "old.txt", "plots/a.png"])
    _write_model(bucket / "models" / "one-more", ["manifest.json"])
    _write_model(target, ["manifest.json", "new.txt", "plots/a.png"])
    assert _names(target) == ["manifest.json", "new.txt", "plots/a.png"]
    assert _names(bucket / "models" / "one-more") == ["manifest.json"]


def test_a_folder_on_an_object_store_has_a_manifest_only_when_it_is_complete(bucket: UPath) -> None:
    target = bucket / "models" / "one"
    _write_model(target, ["a.txt", "manifest.json"])
    with pytest.raises(OSError, match="Input/output"), replacing_folder(target) as part:  # noqa: PT012
        for name in ("a.txt", "manifest.json"):
            (part / name).write_text("second")
        (part / "unreadable.txt").symlink_to("/proc/self/mem")
    assert _names(target) == ["a.txt"]
    _write_model(target, ["a.txt", "manifest.json"])
    assert _names(target) == ["a.txt", "manifest.json"]


@pytest.mark.parametrize("names", [["manifest.json", "plots/a.png"], ["model.onnx"]])
def test_a_folder_fetched_from_an_object_store_is_the_folder_that_was_stored(
    bucket: UPath, names: list[str]
) -> None:
    target = bucket / "models" / "one"
    _write_model(target, names)
    with fetched(target) as copy:
        found = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
        assert found == names
        assert (copy / names[-1]).read_text() == names[-1]
    assert not copy.exists()


def test_fetching_what_is_local_copies_nothing(tmp_path: Path) -> None:
    with fetched(tmp_path) as same:
        assert same == tmp_path
