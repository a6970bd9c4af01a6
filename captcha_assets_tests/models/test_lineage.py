"""Any model, image or batch leads both ways."""

import hashlib
import json
import shutil
import zipfile

import polars as pl
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.images.content_hash import content_hash
from captcha_assets.images.split_assignment import with_sample_keys
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import registry
from captcha_assets.models.lineage import LineageError, Node, trace
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets.sources.archives import digest_of
from captcha_assets_tests.images.tables import rows_of
from captcha_assets_tests.models.traced import deliver, train


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A home with one batch and a champion that was trained on it."""
    settings = Settings(paths=Paths(home=tmp_path_factory.mktemp("traced") / "home"))
    deliver(settings, "first", "synthetic:80:1")
    registry.promote(settings.paths.models, train(settings, ["first"]), "the first model")
    return settings.paths.home


@pytest.fixture
def home(made, tmp_path):
    """A copy of it, to change at will."""
    shutil.copytree(made, tmp_path / "home")
    return Settings(paths=Paths(home=tmp_path / "home"))


def found(nodes: tuple[Node, ...], kind: str) -> list[Node]:
    """All nodes of one kind, at any depth."""
    return [
        one for node in nodes for one in [*([node] if node.kind == kind else []), *found(node.nodes, kind)]
    ]


def an_image(settings, split: str) -> str:
    splits = rows_of(settings.paths.splits)
    return splits.filter(pl.col("split") == split)["image_id"][0]


def test_a_model_leads_back_to_its_run_its_splits_and_the_bytes_it_was_trained_on(home):
    seen = trace(home.paths, "champion")
    (run,), (splits,) = found(seen.derived_from, "training run"), found(seen.derived_from, "splits")
    assert run.id == "run-0"
    assert run.facts["code_version"] == "c1"
    assert splits.id == version_of(home.paths.splits)
    (batch,) = splits.nodes
    archive = (home.paths.raw / "first.zip").read_bytes()
    assert batch.facts["source"] == "synthetic:80:1"
    assert batch.facts["archive_sha256"] == hashlib.sha256(archive).hexdigest()
    assert batch.facts["archive_md5"] == hashlib.md5(archive).hexdigest()
    assert batch.facts["image_table"] == content_hash(home.paths.image_table("first"))
    (served,) = found(seen.used_for, "champion")
    assert served.facts["because"] == "the first model"


def test_what_a_model_was_told_is_no_part_of_its_identity(home):
    model = registry.champion(home.paths.models).model_id
    deliver(home, "second", "synthetic:40:2")
    (again,) = {trace(home.paths, model).what.id, trace(home.paths, "candidate").what.id}
    assert again == model


def test_an_image_leads_to_its_sources_and_to_the_models_that_saw_it(home):
    for split, words in (
        ("train", "trained on it"),
        ("validation", "used for its validation and its temperature scaling"),
        ("test", "kept for its test"),
    ):
        seen = trace(home.paths, an_image(home, split)[:12])
        assert seen.what.facts["split"] == split
        (source,) = found(seen.derived_from, "batch")
        assert source.id == "first"
        assert source.facts["member"].startswith(f"Dataset/{seen.what.facts['label']}_")
        (model,) = seen.used_for
        assert model.facts["this_image"] == words


def test_an_image_is_found_by_the_name_of_its_file_with_or_without_its_folder(home, monkeypatch):
    monkeypatch.setenv("CAPTCHA_HOME", str(home.paths.home))
    image = an_image(home, "train")
    (source,) = found(trace(home.paths, image).derived_from, "batch")
    member = source.facts["member"]
    for name in (member, member.rpartition("/")[2]):
        done = CliRunner().invoke(main, ["lineage", name, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["what"]["id"] == image
    with pytest.raises(LineageError, match="is no model"):
        trace(home.paths, member[1:])  # part of a name is no name


def test_where_several_images_have_a_file_of_this_name_their_ids_and_batches_are_named(home, tmp_path):
    (source,) = found(trace(home.paths, an_image(home, "train")).derived_from, "batch")
    name = source.facts["member"].rpartition("/")[2]
    synthetic_batches.write_archive(tmp_path / "drawn.zip", 20, seed=9)
    with (
        zipfile.ZipFile(tmp_path / "drawn.zip") as drawn,
        zipfile.ZipFile(tmp_path / "second.zip", "w") as archive,
    ):
        archive.writestr(f"Dataset/{name}", drawn.read(drawn.namelist()[0]))
    deliver(home, "second", str(tmp_path / "second.zip"))
    with pytest.raises(LineageError) as error:
        trace(home.paths, name)
    said = str(error.value)
    assert said.startswith(f"2 images have a file {name!r}: ")
    assert f"(Dataset/{name} of batch first)" in said
    assert f"(Dataset/{name} of batch second)" in said
    assert said.endswith("; give the id of one")


def test_what_people_read_has_the_time_as_status_shows_it_and_what_programs_read_has_iso_8601(
    home, monkeypatch
):
    monkeypatch.setenv("CAPTCHA_HOME", str(home.paths.home))
    since = registry.champion(home.paths.models).since
    for name in ("history", "show"):
        done = CliRunner().invoke(main, ["model", name])
        assert done.exit_code == 0, done.output
        assert f"{since[:10]} {since[11:16]} UTC" in done.output
        assert since not in done.output
        assert since in CliRunner().invoke(main, ["model", name, "--json"]).output


def test_an_image_delivered_twice_names_both_batches(home):
    deliver(home, "again", str(home.paths.raw / "first.zip"))
    seen = trace(home.paths, an_image(home, "train"))
    assert [node.id for node in found(seen.derived_from, "batch")] == ["again", "first"]


def test_an_image_that_came_later_was_not_there_when_the_model_was_trained(home):
    deliver(home, "second", "synthetic:60:2")
    splits = rows_of(home.paths.splits).filter(pl.col("batch") == "second", pl.col("split") == "train")
    (model,) = trace(home.paths, splits["image_id"][0]).used_for
    assert model.facts["this_image"] == "not there when it was trained"


def test_an_image_outside_the_sample_was_not_trained_on(home):
    small = train(home, ["first"], seed=1, sample_size=20)
    splits = rows_of(home.paths.splits).filter(pl.col("split") == "train")
    splits = with_sample_keys(splits).sort("sample_key")
    answers = [
        {node.id: node.facts["this_image"] for node in trace(home.paths, splits["image_id"][place]).used_for}
        for place in (0, -1)
    ]
    assert answers[0][small] == "trained on it"
    assert answers[1][small] == "known, but not in its sample"


def test_a_model_whose_splits_were_not_kept_says_so_once_the_splits_have_moved_on(home):
    old = registry.champion(home.paths.models).model_id
    home.paths.training_splits(old).unlink()
    image = an_image(home, "train")
    assert {node.facts["this_image"] for node in trace(home.paths, image).used_for} == {"trained on it"}
    deliver(home, "second", "synthetic:60:2")
    answers = {node.id: node.facts["this_image"] for node in trace(home.paths, image).used_for}
    assert answers[old].startswith("not recorded")


def test_a_batch_leads_to_its_tables_its_images_and_the_models_trained_on_them(home):
    seen = trace(home.paths, "first")
    (table,), (splits,), (model,) = (
        found(seen.used_for, kind) for kind in ("image_table", "splits", "model")
    )
    assert (table.id, table.facts["rows"]) == (content_hash(home.paths.image_table("first")), 80)
    counts = splits.facts
    assert counts["train"] + counts["validation"] + counts["test"] + counts["excluded"] == 80
    assert model.facts["role"] == "champion"
    assert model.facts["images_of_it"]["train"] == counts["train"]


def test_a_batch_that_was_only_registered_has_a_source_and_nothing_else(home):
    batch_registration.register(home, "later", batch_registration.parse_source("synthetic:10:5"))
    seen = trace(home.paths, "later")
    assert found(seen.derived_from, "source")[0].id == "synthetic:10:5"
    assert seen.used_for == ()


def test_a_removed_batch_says_who_was_trained_on_it(home):
    batch_registration.remove(home.paths, "first")
    model = registry.champion(home.paths.models).model_id
    with pytest.raises(LineageError, match=f"first was removed; models trained on it: {model}"):
        trace(home.paths, "first")
    (batch,) = found(trace(home.paths, model).derived_from, "batch")
    assert batch.facts["today"] == "removed"


@pytest.mark.parametrize(
    ("what", "words"),
    [("nobody", "no model"), ("f" * 32, "no image"), ("resnet18-x", "no")],
)
def test_an_unknown_name_is_one_clear_line(home, what, words):
    with pytest.raises(LineageError, match=words) as caught:
        trace(home.paths, what)
    assert "\n" not in str(caught.value)


def test_a_beginning_that_fits_several_asks_for_more(home):
    train(home, ["first"], seed=1)
    with pytest.raises(LineageError, match="begins 2 models"):
        trace(home.paths, "resnet18-")


def test_nothing_is_known_of_an_empty_home(settings):
    with pytest.raises(LineageError, match="there is no champion yet"):
        trace(settings.paths, "champion")
    with pytest.raises(LineageError, match=r"no model \(none\), no batch \(none\)"):
        trace(settings.paths, "abc")


def test_the_whole_is_json(home):
    for what in ("champion", "first", an_image(home, "test")):
        objects = json.loads(json.dumps(trace(home.paths, what).to_dict()))
        assert set(objects) == {"what", "derived_from", "used_for"}
        assert set(objects["what"]) == {"kind", "id", "facts", "nodes"}


def test_a_batch_from_kaggle_names_the_data_set_and_its_version(home):
    shutil.copyfile(home.paths.raw / "first.zip", home.paths.raw / "published.zip")
    source = batch_registration.KaggleSource()
    sha256 = digest_of(home.paths.raw / "published.zip").sha256
    known = batch_registration.Registration("published", source, "owner/slug", sha256, kaggle_version=3)
    batch_registration.record(home.paths, known)
    deliver(home, "published", "kaggle")
    model = train(home, ["first", "published"], seed=2)
    (splits,) = found(trace(home.paths, model).derived_from, "splits")
    facts = {node.id: node.facts for node in splits.nodes}
    assert facts["published"]["kaggle_dataset"] == "owner/slug"
    assert facts["published"]["kaggle_version"] == 3
    assert "kaggle_version" not in facts["first"]


def test_the_command_prints_a_tree_or_json_and_one_line_for_what_it_does_not_know(home, monkeypatch):
    monkeypatch.setenv("CAPTCHA_HOME", str(home.paths.home))

    def said(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["lineage", *arguments])
        return done.exit_code, done.output

    _, whole = said("champion")
    assert "training run run-0" in whole
    assert "archive sha256: " in whole
    assert "because: the first model" in whole
    assert "training run" not in said("champion", "--down")[1]
    assert "because" not in said("champion", "--up")[1]
    assert set(json.loads(said("first", "--json", "--down")[1])) == {"what", "used_for"}
    status, words = said("nobody")
    assert status == 1
    assert len(words.strip().splitlines()) == 1


def test_an_object_store_tells_the_same(made, tmp_path, bucket):
    shutil.copytree(made / "data", tmp_path / "home" / "data")
    for path in (made / "artifacts").rglob("*"):
        if path.is_file():
            (bucket / "artifacts" / path.relative_to(made / "artifacts").as_posix()).write_bytes(
                path.read_bytes()
            )
    here, there = (
        Settings(paths=Paths(home=made)),
        Settings(paths=Paths(home=tmp_path / "home", artifacts=str(bucket / "artifacts"))),
    )
    for what in ("champion", "first", an_image(here, "train")):
        objects = [json.dumps(trace(one.paths, what).to_dict()) for one in (here, there)]
        objects[1] = objects[1].replace(str(tmp_path / "home"), str(made))
        assert objects[1].replace(str(there.paths.artifact_root), str(here.paths.artifact_root)) == objects[0]
