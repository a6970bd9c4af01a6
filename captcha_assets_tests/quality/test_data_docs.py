import re

import polars as pl
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.dataset import CAPTCHA
from captcha_assets.quality import data_docs, validation, validation_result
from captcha_assets.quality.validation_result import ValidationResultError
from captcha_assets.settings import Settings, load_settings
from captcha_assets_tests.quality import tables


@pytest.fixture
def settings(tmp_path) -> Settings:
    return load_settings(home=tmp_path / "home")


def keep(settings: Settings, batch: str, label: str) -> None:
    """Keep the validation results of a batch whose fourth image has this label."""
    fourth = pl.int_range(pl.len()) == 3
    table = tables.image_table(batch=batch).with_columns(
        label=pl.when(fourth).then(pl.lit(label)).otherwise("label")
    )
    found = validation.validate_image_table(
        tables.write(table, settings.paths.home / f"{batch}.parquet"),
        tables.write(tables.rejected(), settings.paths.home / "rejected.parquet"),
        CAPTCHA,
    )
    validation_result.save(found, "", settings.paths.validation_results("image_table", batch))


def test_the_data_docs_show_every_batch_its_expectations_and_unexpected_values(settings, caplog):
    keep(settings, "first", "5")
    keep(settings, "second", "Z")
    result = CliRunner().invoke(main, ["data-docs"], env={"CAPTCHA_HOME": str(settings.paths.home)})
    assert result.exit_code == 0, result.output
    index = settings.paths.data_docs / "index.html"
    assert result.output.strip() == str(index)
    assert "image_table-second" in index.read_text()
    (page,) = (settings.paths.data_docs / "validations" / "image_table").rglob("image_table-second.html")
    words = re.sub(r"<[^>]*>|\s+", " ", page.read_text()).split()
    assert "values must belong to this set: 2 3 4" in " ".join(words)
    assert "Unexpected Value Count Z 1" in " ".join(words)
    notes = (settings.paths.data_docs / "expectations" / "image_table.html").read_text()
    assert "Every label is one of the known classes." in notes
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_without_results_there_is_one_clear_error(settings):
    with pytest.raises(ValidationResultError, match="no validation results yet: captcha-assets update"):
        data_docs.build(settings.paths, CAPTCHA)


def test_what_cannot_be_used_is_left_out_and_named(settings):
    keep(settings, "first", "5")
    keep(settings, "edited", "Z")
    folder = settings.paths.validation_results("image_table", "damaged")
    folder.mkdir(parents=True)
    (folder / "validation_result.json").write_text("{")
    edited = settings.paths.validation_results("image_table", "edited") / "validation_result.json"
    edited.write_text(edited.read_text().replace('"success": false', '"success": true'))
    result = CliRunner().invoke(main, ["data-docs"], env={"CAPTCHA_HOME": str(settings.paths.home)})
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(settings.paths.data_docs / "index.html")
    said = result.stderr.splitlines()
    assert [line for line in said if str(folder / "manifest.json") in line]
    assert [line for line in said if f"{edited} (changed after it was stored" in line]
    index = (settings.paths.data_docs / "index.html").read_text()
    assert "image_table-first" in index
    assert "damaged" not in index
    assert "edited" not in index


def test_where_no_result_can_be_used_the_error_names_them(settings):
    folder = settings.paths.validation_results("image_table", "damaged")
    folder.mkdir(parents=True)
    (folder / "validation_result.json").write_text("{")
    with pytest.raises(ValidationResultError, match=str(folder)):
        data_docs.build(settings.paths, CAPTCHA)
