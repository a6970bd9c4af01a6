"""What training and evaluation read stays of one moment."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from captcha_assets.images.local_tables import local_tables
from captcha_assets.images.table_files import MissingTableError
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings


def placed(settings: Settings, *batches: str) -> None:
    """Write splits with an image of each batch, and the batches' tables, as a run does: whole files."""
    rows = pl.DataFrame({"image_id": [f"of {batch}" for batch in batches], "batch": list(batches)})
    for path in (settings.paths.splits, *map(settings.paths.image_table, batches)):
        place = Path(str(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(place.with_suffix(".part"))
        place.with_suffix(".part").rename(place)


def test_a_batch_that_comes_or_goes_meanwhile_changes_nothing_of_what_is_read(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(home=tmp_path))
    placed(settings, "a", "b")
    with local_tables(settings.paths) as data:
        placed(settings, "b", "c")
        Path(str(settings.paths.image_table("a"))).unlink()
        assert data.batches == ("a", "b")
        assert pl.read_parquet(data.splits)["batch"].to_list() == ["a", "b"]
        assert [path.name for path in data.tables] == ["a.parquet", "b.parquet"]
        assert all(pl.read_parquet(path)["batch"].to_list() == ["a", "b"] for path in data.tables)
    assert not list(settings.paths.scratch.iterdir())


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(home=tmp_path))
    placed(settings, "a", "splits")
    Path(str(settings.paths.image_table("splits"))).unlink()
    with pytest.raises(MissingTableError, match=r"splits\.parquet"), local_tables(settings.paths):
        pass
    assert not list(settings.paths.scratch.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_reads_is_not(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(home=tmp_path))
    placed(settings, "a")
    code = (
        "import sys, time; from pathlib import Path; from captcha_assets.paths import Paths\n"
        "from captcha_assets.images.local_tables import local_tables\n"
        "with local_tables(Paths(home=Path(sys.argv[1]))) as data:\n"
        "    print(data.splits, flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        theirs = Path(process.stdout.readline().strip())
        with local_tables(settings.paths):
            assert theirs.exists()
        process.kill()
    assert theirs.exists()
    with local_tables(settings.paths):
        assert not theirs.parent.exists()
    assert not list(settings.paths.scratch.iterdir())
