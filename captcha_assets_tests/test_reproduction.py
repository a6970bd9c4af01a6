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
from captcha_assets.images.content import content_hash
from captcha_assets.models import folder, provenance, registry
from captcha_assets.settings import Settings
from captcha_assets.sources import deliveries, generator
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets_tests.models.traced import deliver

TINY = TrainingSettings(
    epochs=1, channels=(4, 4, 8, 8), batch_size=16, sample_size=None, learning_rate=0.05, accelerator="cpu"
)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A home with a delivery from a file, which is gone now, and a tiny model that was trained on it."""
    settings = Settings(home=tmp_path_factory.mktemp("reproduced") / "home")
    delivered = settings.home.parent / "delivered.zip"
    generator.write_archive(delivered, 120, 1)
    deliver(settings, "first", str(delivered))
    delivered.unlink()
    job = TrainingJob(
        tables=(Path(str(settings.image_table("first"))),),
        splits=Path(str(settings.splits)),
        splits_version=content_hash(settings.splits),
        output=settings.scratch / "model",
        checkpoints=settings.scratch / "checkpoints",
        code_version="1",
        settings=TINY,
        provenance={"deliveries": ["first"], **provenance.recorded(settings, ["first"])},
    )
    job.save(settings.scratch / "job.json")
    command = [sys.executable, "-m", "captcha_assets.training", str(settings.scratch / "job.json")]
    subprocess.run(command, check=True, capture_output=True)
    model_id = registry.add_candidate(settings.models, job.output)
    kept = Path(str(settings.training_splits(model_id)))
    kept.parent.mkdir(parents=True)
    shutil.copyfile(job.splits, kept)
    return settings.home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of that home, to change at will."""
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / "home"))
    return Settings(home=tmp_path / "home")


def reproduced(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["reproduce", "candidate", *arguments])
    return done.exit_code, done.output


def test_the_same_model_comes_out_and_the_home_stays_as_it_was(home: Settings) -> None:
    before = snapshot(home.artifact_root)
    status, said = reproduced()
    assert status == 0, said
    assert f"the same model, bit for bit: {registry.candidate(home.models).model_id}" in said
    assert snapshot(home.artifact_root) == before
    assert not list((home.scratch / "reproduce").iterdir())


def snapshot(place: object) -> dict[str, bytes]:
    root = Path(str(place))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def told_otherwise(home: Settings, **changes: object) -> str:
    """Make the candidate a model that says it was trained with other settings."""
    model = registry.model_folder(home.models, registry.candidate(home.models).model_id)
    loaded = folder.load(Path(str(model)))
    config = replace(
        loaded.config, settings=loaded.config.settings | changes, seed=changes.get("seed", TINY.seed)
    )
    history, metrics = folder.read_history(model), folder.read_metrics(model)
    folder.save(home.scratch / "told", loaded.model, config, history, metrics)
    model_id = registry.add_candidate(home.models, home.scratch / "told")
    shutil.copyfile(
        str(next(home.training_splits(model_id).parent.glob("*.splits.parquet"))),
        str(home.training_splits(model_id)),
    )
    return model_id


@pytest.mark.slow
def test_another_seed_gives_another_model_and_the_figures_of_both(home: Settings) -> None:
    told = told_otherwise(home, seed=5)
    status, said = reproduced("--json")
    assert status == 1, said
    result = json.loads(said)
    assert (result["model_id"], result["same"]) == (told, False)
    assert result["again"] != told
    assert len(result["validation_accuracy"]) == 2
    assert result["largest_weight_difference"] > 0
    assert registry.candidate(home.models).model_id == told


@pytest.mark.slow
def test_lost_bytes_are_fetched_again_from_their_source(home: Settings) -> None:
    source = Path(str(deliveries.registration(home, "first").source))
    generator.write_archive(source, 120, 1)
    (home.raw / "first.zip").write_bytes(b"something else")
    status, said = reproduced()
    source.unlink()
    assert status == 0, said
    assert "brought back from its source" in said
    assert "not as it was: first.zip in data/raw" in said


def test_an_archive_that_cannot_be_had_any_more_is_named(home: Settings) -> None:
    (home.raw / "first.zip").unlink()
    status, said = reproduced()
    assert status == 1
    assert "the archive of first (sha256 " in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_another_archive_of_that_name_is_said_to_be_another(home: Settings) -> None:
    generator.write_archive(home.raw / "first.zip", 120, 2)
    status, said = reproduced()
    assert status == 1
    assert "not as it was: first.zip in data/raw" in said
    assert "not as it was: image_table of first" in said


def test_bytes_come_back_from_dvcs_cache(home: Settings) -> None:
    from captcha_assets.sources.snapshot import restore, take_snapshot

    take_snapshot(home.home)
    before = (home.raw / "first.zip").read_bytes()
    md5 = provenance.origin(home, "first").md5
    (home.raw / "first.zip").unlink()
    assert md5
    assert restore(home.home, md5, home.scratch / "back.zip")
    assert (home.scratch / "back.zip").read_bytes() == before
    assert not restore(home.home, "0" * 32, home.scratch / "none.zip")


def test_splits_that_were_not_kept_end_in_one_line(home: Settings) -> None:
    Path(str(home.training_splits(registry.candidate(home.models).model_id))).unlink()
    deliver(home, "second", "synthetic:40:3")
    status, said = reproduced()
    assert status == 1
    assert "were not kept" in said


def test_a_damaged_model_is_refused(home: Settings) -> None:
    model = Path(str(home.models)) / registry.candidate(home.models).model_id
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"seed": 7}))
    status, said = reproduced()
    assert status == 1
    assert "config.json is damaged" in said


def test_a_model_of_before_says_that_it_is_too_old(home: Settings) -> None:
    place = Path(str(registry.model_folder(home.models, registry.candidate(home.models).model_id)))
    loaded = folder.load(place)
    told = replace(loaded.config, provenance={"deliveries": ["first"]}, seed=9)
    history, metrics = folder.read_history(place), folder.read_metrics(place)
    folder.save(home.scratch / "old", loaded.model, told, history, metrics)
    registry.add_candidate(home.models, home.scratch / "old")
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

    assert provenance.code_commit(tmp_path) is None
    git("init")
    first = commit("captcha_assets/a.py", "1")
    words = commit("README.md", "words")
    second = commit("captcha_assets/a.py", "2")
    assert provenance.same_code(first, words, tmp_path)
    assert not provenance.same_code(first, second, tmp_path)
    assert provenance.code_commit(tmp_path) == provenance.Commit(second, modified=False)
    (tmp_path / "captcha_assets/a.py").write_text("3")
    assert provenance.code_commit(tmp_path) == provenance.Commit(second, modified=True)
