"""What the page on the tables shows runs as it stands, in the folder of a home."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from captcha_assets.images.table_parts import read_manifest
from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.commands import succeeded

PAGE = (REPOSITORY / "docs" / "tables.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one batch, through to the splits."""
    home = tmp_path_factory.mktemp("tables") / "home"
    succeeded(home, "batch", "add", "a", "synthetic:100:1")
    succeeded(home, "update", "--select", "+key:splits")
    return home


def printed(block: str, home: Path) -> str:
    environment = {"CAPTCHA_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_example_prints_what_it_says(home: Path) -> None:
    polars, pandas, duckdb, pytorch, picture, upgrade = (printed(block, home) for block in BLOCKS)
    assert "shape: (20, 2)" in polars
    assert "count" in pandas
    assert "validation" in duckdb
    assert "torch.Size([52, 32])" in pytorch
    assert picture == ""
    assert "shape: (1, 2)" in upgrade
    assert (home / "first.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_columns_are_those_of_the_tables(home: Path) -> None:
    for name in ("image_table/a", "rejected_images/a", "splits"):
        (row,) = [
            line for line in PAGE.splitlines() if line.startswith(f"| `{name.replace('/a', '/<batch>')}")
        ]
        listed = re.findall(r"`(\w+)`", row.split("|")[3])
        table = home / "artifacts" / name
        file = read_manifest(table).files()[0] if table.is_dir() else table.with_suffix(".parquet")
        assert listed == pl.read_parquet_schema(file).names()


@pytest.mark.slow
def test_the_manifest_has_these_fields(home: Path) -> None:
    (shown,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    written = json.loads((home / "artifacts" / "splits" / "manifest.json").read_text())
    assert written.keys() == shown.keys()
    (part,), (shown_part,) = written["parts"].values(), shown["parts"].values()
    assert part.keys() == shown_part.keys()
