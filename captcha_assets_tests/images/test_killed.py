"""Killed anywhere: a rerun ends in the same bytes, nothing half-written is seen, nothing is left behind."""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.images.table_parts import MANIFEST
from captcha_assets_tests.forkserver import CONTEXT
from captcha_assets_tests.images.files import good_members, write_zip
from captcha_assets_tests.images.tables import content


def ingest(writer: Connection, archive: Path, folder: Path) -> None:
    """Ingest an archive in a session of its own; say through a pipe when that begins."""
    os.setsid()
    writer.send("ready")
    table = folder / "table.parquet"
    build_image_table(archive, "batch", table, folder / "rejected.parquet", CAPTCHA, processes=1)
    build_image_index({"batch": table}, folder / "index", CAPTCHA)
    record = AssignmentRecord(folder / "data", folder / "scratch")
    tables = {"batch": table}
    update_splits(folder / "index", folder / "splits", record, CAPTCHA, tables.__getitem__)


def start(archive: Path, folder: Path) -> BaseProcess:
    """Start the ingestion; it begins when this returns."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=ingest, args=(writer, archive, folder))
    process.start()
    assert reader.recv() == "ready"
    return process


def finish(archive: Path, folder: Path) -> float:
    process = start(archive, folder)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def visible(folder: Path) -> dict[str, bytes]:
    found = [*folder.glob("*.parquet"), *(folder / "data").glob("*")]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    for name in ("index", "splits"):
        if (folder / name / MANIFEST).exists():
            files |= {f"{name}/{file}": data for file, data in content(folder / name).items()}
    return files


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def wait_for_the_end_of_all(session: int) -> None:
    """Wait until no process of a killed ingestion is left; the test's timeout ends a wait in vain."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(session, 0)
            time.sleep(0.01)


def killed_and_finished(tmp_path: Path, kills: int) -> Iterator[Path]:
    """Kill ingestions at random moments; yield the folder of each after it ran again, beside `reference`."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    archive = write_zip(tmp_path / "batch.zip", good_members(3 * 84) | {"a_9999.png": b"broken"})
    earlier = write_zip(tmp_path / "earlier.zip", good_members(84, seed=1))
    finish(earlier, tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "reference")
    takes = finish(archive, tmp_path / "reference")
    finish(
        archive, tmp_path / "reference"
    )  # removes what the first one left for readers of the tables before
    wanted, before = visible(tmp_path / "reference"), visible(tmp_path / "before")
    for number in range(kills):
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "before", folder)
        process = start(archive, folder)
        time.sleep(chance.uniform(0, takes))
        process.kill()
        process.join()
        wait_for_the_end_of_all(process.pid)
        for name, data in visible(folder).items():
            assert data in (before.get(name), wanted.get(name))
        for _ in range(2):
            finish(archive, folder)
        yield folder


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.timeout(2400)
def test_an_ingestion_killed_twenty_times_runs_again_to_the_same_bytes(tmp_path):
    for folder in killed_and_finished(tmp_path, 20):
        assert visible(folder) == visible(tmp_path / "reference")
        assert files(folder) == files(tmp_path / "reference")
