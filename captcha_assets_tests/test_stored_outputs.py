"""What lies on disk in the place of another thing is named, whatever its own manifest says."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from captcha_assets.models import registry
from captcha_assets.models.manifest import ModelFolderError, writing_folder
from captcha_assets.models.overview import read_metrics
from captcha_assets.paths import Paths
from captcha_assets.stored_outputs import Output, StoredVersions
from captcha_assets_tests.models.conftest import models

__all__ = ["models"]

FIGURES = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "n": 100}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(home=tmp_path / "home")


def evaluate(paths: Paths, model_id: str) -> None:
    with writing_folder(paths.evaluation(model_id), model_id=model_id, version="1") as folder:
        (folder / "metrics.json").write_text(json.dumps(FIGURES))


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("exchanged"))
    other.rename(one)
    one.with_name("exchanged").rename(other)


def test_a_model_in_the_folder_of_another_one_is_damage(paths: Paths, models: list[Path]) -> None:
    one, other = (registry.add_candidate(paths.models, model) for model in models[:2])
    assert StoredVersions(paths).look(Output("champion", model=one)).problem is None
    exchange(paths.models / one, paths.models / other)
    registry.make_candidate(paths.models, one)
    problem = StoredVersions(paths).look(Output("resnet18", model=one)).problem
    assert problem is not None
    assert f"{paths.models / one} holds the model {other}: restore the folder" in problem


def test_the_figures_of_another_model_are_never_shown(paths: Paths) -> None:
    for name in ("one", "other"):
        evaluate(paths, name)
    assert read_metrics(paths, "one") == FIGURES
    exchange(Path(str(paths.evaluation("one"))), Path(str(paths.evaluation("other"))))
    holds = f"{paths.evaluation('one')} holds the evaluation of other"
    with pytest.raises(ModelFolderError, match=f"{holds}; measure the model again"):
        read_metrics(paths, "one")
    assert StoredVersions(paths).look(Output("evaluation", model="one")).problem == f"damaged: {holds}"


def test_figures_that_were_edited_are_never_shown(paths: Paths) -> None:
    evaluate(paths, "one")
    metrics = paths.evaluation("one") / "metrics.json"
    metrics.write_text(json.dumps({**FIGURES, "accuracy": 0.99}))
    with pytest.raises(ModelFolderError, match=r"metrics.json is damaged .*; measure the model again"):
        read_metrics(paths, "one")


def test_a_look_names_no_file_of_an_earlier_look(paths: Paths) -> None:
    evaluate(paths, "one")
    versions = StoredVersions(paths)
    assert versions.look(Output("evaluation", model="one")).path == str(paths.evaluation("one"))
    assert versions.look(Output("champion")).path is None


def test_what_is_known_of_the_files_may_be_a_pipe(paths: Paths) -> None:
    evaluate(paths, "one")
    paths.scratch.mkdir(parents=True)
    os.mkfifo(paths.scratch / "checksums.json")
    versions = StoredVersions(paths)
    assert versions.look(Output("evaluation", model="one")).version == "1"
    versions.save()
    assert (paths.scratch / "checksums.json").is_file()


def test_without_splits_and_their_assignments_it_is_said_how_they_come_back(paths: Paths) -> None:
    problem = StoredVersions(paths).look(Output("splits")).problem
    assert problem is not None
    assert problem.startswith(f"missing: {paths.splits}, and every split assignment: restore the record with")
    assert "or from a backup" in problem


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """Let the process have no more open files than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_system_that_can_open_no_more_files_makes_none_of_them_damaged(
    paths: Paths, models: list[Path]
) -> None:
    one = Output("resnet18", model=registry.add_candidate(paths.models, models[0]))
    versions = StoredVersions(paths)
    with no_file_can_be_opened(), pytest.raises(OSError, match="Too many open files"):
        versions.look(one)
    assert "Too many open files" not in str(versions.look(one).problem)
