"""What README shows that one does every day, done."""

import re
import zipfile
from pathlib import Path

import pytest
import yaml
from upath import UPath

from captcha_assets.dataset import CAPTCHA
from captcha_assets.paths import REPOSITORY
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.defs.conftest import NARROW
from captcha_assets_tests.documentation.shell import run
from captcha_assets_tests.serving.services import running
from captcha_assets_tests.sources.kaggle_server import Kaggle, serve

README = (REPOSITORY / "README.md").read_text()
DAILY = README.partition("## Five things")[2].partition("## Everything else")[0]


def _checkout(folder: Path) -> Path:
    """Make a folder that is like a clone for `dg`, and a home."""
    folder.mkdir()
    for name in ("captcha_assets", "pyproject.toml", "workspace.yaml"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "configs").mkdir()
    (folder / "configs" / "training.yaml").write_text(yaml.safe_dump(NARROW))  # instead of some minutes
    return folder


def _images(path: Path, seed: int) -> bytes:
    synthetic_batches.write_archive(path, 300, seed)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_five_things_of_every_day_work_as_they_are_written(
    object_store: dict[str, str], tmp_path: Path
) -> None:
    checkout, user = _checkout(tmp_path / "checkout"), tmp_path / "user"
    (user / "Downloads").mkdir(parents=True)
    _images(user / "Downloads" / "october.zip", seed=2)
    with zipfile.ZipFile(user / "Downloads" / "october.zip") as archive:
        archive.extractall(user / "Downloads" / "october")
    assert CAPTCHA.kaggle_dataset
    owner, slug = CAPTCHA.kaggle_dataset.split("/")
    published = Kaggle(owner=owner, slug=slug, archives={1: _images(tmp_path / "kaggle.zip", seed=3)})
    variables = object_store | {
        "CAPTCHA_HOME": str(checkout),
        "HOME": str(user),
        "KAGGLE_API_ENVIRONMENT": "TEST",
        "KAGGLE_API_TOKEN": published.token,
    }
    commands = re.findall(r"```console\n(.*?)```", DAILY, re.DOTALL)
    assert len(commands) == 5
    with pytest.MonkeyPatch.context() as patch, serve(published):
        for name, value in object_store.items():
            patch.setenv(name, value)
        team = UPath("s3://team", use_listings_cache=False)
        team.fs.mkdir("team")
        (team / "november.zip").write_bytes(_images(tmp_path / "november.zip", seed=4))
        for block in commands:
            written = re.sub(r"^captcha-assets serve.*\n", "", block, flags=re.MULTILINE)  # it does not end
            done = run(written, checkout, **variables)
            assert done.returncode == 0, f"{written}\n{done.stdout}"
        assert run("captcha-assets update", checkout, **variables).stdout == "everything is up to date\n"
    with running(checkout) as service:
        assert "<title>" in service.get("/").text
        assert service.predict(next((user / "Downloads" / "october").rglob("*.png")).read_bytes()).is_success
