"""`reproduce` trains a model again from what it recorded, and says whether the result is the same."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images import table_parts
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import folder, registry, training_provenance
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets.training.config import TRAINING_CODE, TrainingJob, TrainingSettings
from captcha_assets_tests.models.traced import deliver
from captcha_assets_tests.sources.kaggle_server import Kaggle, port, serve

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

TINY = TrainingSettings(
    epochs=1, channels=(4, 4, 8, 8), batch_size=16, sample_size=None, learning_rate=0.05, accelerator="cpu"
)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A home with a batch from a file, which is gone now, and a tiny model that was trained on it."""
    settings = Settings(paths=Paths(home=tmp_path_factory.mktemp("reproduced") / "home"))
    delivered = settings.paths.home.parent / "delivered.zip"
    synthetic_batches.write_archive(delivered, 120, 1)
    deliver(settings, "first", str(delivered))
    delivered.unlink()
    settings.paths.scratch.mkdir(parents=True, exist_ok=True)
    splits = settings.paths.scratch / "splits.parquet"
    table_parts.write_one_file(settings.paths.splits, splits)
    job = TrainingJob(
        tables=(Path(str(settings.paths.image_table("first"))),),
        splits=splits,
        splits_version=version_of(settings.paths.splits),
        classes=CAPTCHA.classes,
        image_shape=CAPTCHA.shape,
        output=settings.paths.scratch / "model",
        checkpoints=settings.paths.scratch / "checkpoints",
        code_version=TRAINING_CODE,
        settings=TINY,
        provenance={"batches": ["first"], **training_provenance.recorded(settings.paths, ["first"])},
    )
    job.save(settings.paths.scratch / "job.json")
    command = [sys.executable, "-m", "captcha_assets.training", str(settings.paths.scratch / "job.json")]
    subprocess.run(command, check=True, capture_output=True)
    model_id = registry.add_candidate(settings.paths.models, job.output)
    kept = Path(str(settings.paths.training_splits(model_id)))
    kept.parent.mkdir(parents=True)
    shutil.copyfile(job.splits, kept)
    return settings.paths.home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of that home, to change at will."""
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / "home"))
    return Settings(paths=Paths(home=tmp_path / "home"))


def reproduced(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["reproduce", "candidate", *arguments])
    return done.exit_code, done.output


def test_the_same_model_comes_out_and_the_home_stays_as_it_was(home: Settings) -> None:
    before = snapshot(home.paths.artifact_root)
    status, said = reproduced()
    assert status == 0, said
    assert f"the same model, bit for bit: {registry.candidate(home.paths.models).model_id}" in said
    assert snapshot(home.paths.artifact_root) == before
    assert not list((home.paths.scratch / "reproduce").iterdir())


def snapshot(place: object) -> dict[str, bytes]:
    root = Path(str(place))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def with_other_settings(home: Settings, **changes: object) -> str:
    """Make the candidate a model that says it was trained with other settings."""
    model = registry.model_folder(home.paths.models, registry.candidate(home.paths.models).model_id)
    loaded = folder.load(Path(str(model)))
    config = replace(
        loaded.config, settings=loaded.config.settings | changes, seed=changes.get("seed", TINY.seed)
    )
    history, metrics = folder.read_history(model), folder.read_metrics(model)
    folder.save(home.paths.scratch / "other", loaded.model, config, history, metrics)
    model_id = registry.add_candidate(home.paths.models, home.paths.scratch / "other")
    shutil.copyfile(
        str(next(home.paths.training_splits(model_id).parent.glob("*.splits.parquet"))),
        str(home.paths.training_splits(model_id)),
    )
    return model_id


def test_another_seed_gives_another_model_and_the_figures_of_both(home: Settings) -> None:
    model_id = with_other_settings(home, seed=5)
    status, said = reproduced("--json")
    assert status == 1, said
    result = json.loads(said)
    assert (result["model_id"], result["same"]) == (model_id, False)
    assert result["again"] != model_id
    assert len(result["validation_accuracy"]) == 2
    assert result["largest_weight_difference"] > 0
    assert registry.candidate(home.paths.models).model_id == model_id


def test_lost_bytes_are_fetched_again_from_their_source(home: Settings) -> None:
    source = Path(str(batch_registration.registration(home.paths, "first").source))
    synthetic_batches.write_archive(source, 120, 1)
    (home.paths.raw / "first.zip").write_bytes(b"something else")
    status, said = reproduced()
    source.unlink()
    assert status == 0, said
    assert "brought back from its source" in said
    assert "changed since: first.zip in data/raw" in said


def test_an_archive_that_cannot_be_had_any_more_is_named(home: Settings) -> None:
    (home.paths.raw / "first.zip").unlink()
    status, said = reproduced()
    assert status == 1
    assert "the archive of first (sha256 " in said
    assert "DVC does not have it; its source no longer has it (" in said
    assert "delivered.zip does not exist). Bring it back" in said
    assert len(said.strip().splitlines()) == 1


def from_kaggle(home: Settings) -> None:
    """Make the candidate a model that was trained on Kaggle's data set, whose archive is lost."""
    place = Path(
        str(registry.model_folder(home.paths.models, registry.candidate(home.paths.models).model_id))
    )
    loaded = folder.load(place)
    (source,) = loaded.config.provenance["sources"]
    source |= {"source": "kaggle:2", "dataset": "someone/letters", "kaggle_version": 2}
    config = replace(loaded.config, provenance={**loaded.config.provenance, "sources": [source]}, seed=11)
    history, metrics = folder.read_history(place), folder.read_metrics(place)
    folder.save(home.paths.scratch / "kaggle", loaded.model, config, history, metrics)
    registry.add_candidate(home.paths.models, home.paths.scratch / "kaggle")
    (home.paths.raw / "first.zip").unlink()


@pytest.fixture
def kaggle_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody who is signed in to Kaggle, which is the server of the tests."""
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret-token")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")


@pytest.mark.xdist_group("kaggle_server")
@pytest.mark.parametrize(
    ("status", "what", "why"),
    [
        (401, "could not be reached", "Kaggle rejected the credentials (401)"),
        (403, "could not be reached", "this account may not read it (403)"),
        (404, "no longer has it", "there is none (404)"),
        (503, "could not be reached", "Kaggle answered with an error (503)"),
    ],
)
def test_a_source_that_no_longer_has_an_archive_and_one_that_rejects_are_told_apart(
    home: Settings, kaggle_user: None, status: int, what: str, why: str
) -> None:
    from_kaggle(home)
    with serve(Kaggle(statuses={"DownloadDataset": status})):
        ended, said = reproduced()
    assert ended == 1
    (line,) = said.strip().splitlines()
    assert "the archive of first (sha256 " in line
    assert what in line
    assert why in line
    assert {"could not be reached", "no longer has it"} - {what} == {
        words for words in ("could not be reached", "no longer has it") if words not in line
    }


@pytest.mark.xdist_group("kaggle_server")
def test_a_source_that_cannot_be_reached_is_not_said_to_be_gone(home: Settings, kaggle_user: None) -> None:
    from_kaggle(home)
    with port():  # and nobody listens
        _ended, said = reproduced()
    assert (
        "its source someone/letters could not be reached (Kaggle someone/letters version 2: no answer" in said
    )
    assert "check the network" in said
    assert "no longer has it" not in said


@pytest.mark.xdist_group("kaggle_server")
def test_missing_credentials_are_not_said_to_be_a_lost_archive(
    home: Settings, kaggle_user: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    from_kaggle(home)
    _ended, said = reproduced()
    assert "could not be reached (no credentials for Kaggle: set KAGGLE_API_TOKEN" in said


def test_another_archive_of_that_name_is_said_to_be_another(home: Settings) -> None:
    synthetic_batches.write_archive(home.paths.raw / "first.zip", 120, 2)
    status, said = reproduced()
    assert status == 1
    assert "changed since: first.zip in data/raw" in said
    assert "changed since: image_table of first" in said


def test_bytes_come_back_from_dvcs_cache(home: Settings) -> None:
    from captcha_assets.sources.dvc_snapshot import restore, take_snapshot

    take_snapshot(home.paths.home)
    before = (home.paths.raw / "first.zip").read_bytes()
    md5 = training_provenance.origin(home.paths, "first").md5
    (home.paths.raw / "first.zip").unlink()
    assert md5
    assert restore(home.paths.home, md5, home.paths.scratch / "back.zip")
    assert (home.paths.scratch / "back.zip").read_bytes() == before
    assert not restore(home.paths.home, "0" * 32, home.paths.scratch / "none.zip")


def test_splits_that_were_not_kept_end_in_one_line(home: Settings) -> None:
    Path(str(home.paths.training_splits(registry.candidate(home.paths.models).model_id))).unlink()
    deliver(home, "second", "synthetic:40:3")
    status, said = reproduced()
    assert status == 1
    assert "were not kept" in said


def test_a_damaged_model_is_rejected(home: Settings) -> None:
    model = Path(str(home.paths.models)) / registry.candidate(home.paths.models).model_id
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"seed": 7}))
    status, said = reproduced()
    assert status == 1
    assert "config.json is damaged" in said


def test_a_model_of_before_says_that_it_is_too_old(home: Settings) -> None:
    place = Path(
        str(registry.model_folder(home.paths.models, registry.candidate(home.paths.models).model_id))
    )
    loaded = folder.load(place)
    config = replace(loaded.config, provenance={"batches": ["first"]}, seed=9)
    history, metrics = folder.read_history(place), folder.read_metrics(place)
    folder.save(home.paths.scratch / "old", loaded.model, config, history, metrics)
    registry.add_candidate(home.paths.models, home.paths.scratch / "old")
    status, said = reproduced()
    assert status == 1
    assert "too old" in said


def test_the_same_package_in_two_commits_is_the_same_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        return subprocess.run(
            ["git", *who, *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(name: str, content: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        git("add", ".")
        git("commit", "-m", "one")
        return git("rev-parse", "HEAD")

    assert training_provenance.code_commit(tmp_path) is None
    git("init")
    first = commit("captcha_assets/a.py", "1")
    words = commit("README.md", "words")
    second = commit("captcha_assets/a.py", "2")
    assert training_provenance.same_code(first, words, tmp_path)
    assert not training_provenance.same_code(first, second, tmp_path)
    assert training_provenance.code_commit(tmp_path) == training_provenance.Commit(second, modified=False)
    (tmp_path / "captcha_assets/a.py").write_text("3")
    assert training_provenance.code_commit(tmp_path) == training_provenance.Commit(second, modified=True)
