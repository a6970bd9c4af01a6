"""The registry: what serves is one model at any moment, and the history is never rewritten."""

import json
import os
import random
import shutil
import signal
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from captcha_assets.atomic_files import fetched
from captcha_assets.models import folder, promotion_records, registry
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.models.promotion_records import Decision
from captcha_assets.models.registry import RegistryError
from captcha_assets.text_formats import shown_time
from captcha_assets_tests.forkserver import CONTEXT
from captcha_assets_tests.models.conftest import as_if_nothing_served


@pytest.fixture
def shelf(tmp_path, models):
    """A registry of three models, none of them champion."""
    place = tmp_path / "registry"
    return place, [registry.add_candidate(place, model) for model in models]


@pytest.fixture(params=["disk", "s3"])
def anywhere(request, models):
    """A registry of three models on a local disk or an object store."""
    place = request.getfixturevalue("tmp_path" if request.param == "disk" else "bucket") / "registry"
    return place, [registry.add_candidate(place, model) for model in models]


def test_an_empty_registry_holds_nothing(tmp_path):
    place = tmp_path / "nowhere"
    assert registry.list_models(place) == []
    assert registry.candidate(place) is None
    assert registry.champion(place) is None
    assert registry.history(place) == []
    with pytest.raises(RegistryError, match=r"there is no model 'x' .* known are: none"):
        registry.model_folder(place, "x")
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback(place, "a try")


def test_models_come_are_promoted_and_go_back(anywhere):
    place, (one, two, three) = anywhere
    assert registry.list_models(place) == sorted([one, two, three])
    assert registry.candidate(place).model_id == three
    registry.promote(place, one, "the first", {"accuracy": 0.9})
    registry.promote(place, two, "better", {"accuracy": 0.95}, by="human")
    champion = registry.champion(place)
    assert (champion.model_id, champion.instead_of, champion.by) == (two, one, "human")
    assert champion.metrics == {"accuracy": 0.95}
    back = registry.rollback(place, "it reads m as n")
    assert registry.champion(place) == back
    assert (back.model_id, back.instead_of, back.action) == (one, two, "rollback")
    assert back.metrics == {"accuracy": 0.9}
    entries = [(entry.number, entry.model_id, entry.reason) for entry in registry.history(place)]
    assert entries == [(1, one, "the first"), (2, two, "better"), (3, one, "it reads m as n")]
    with fetched(registry.model_folder(place, one)) as local:
        assert folder.verify(local) == one


def test_a_model_that_comes_again_is_not_copied_again(shelf, models):
    place, (one, *_) = shelf
    before = (place / one / "manifest.json").stat().st_mtime_ns
    since = registry.candidate(place)
    registry.add_candidate(place, models[2])
    assert registry.candidate(place) == since
    assert registry.add_candidate(place, models[0]) == one
    assert (place / one / "manifest.json").stat().st_mtime_ns == before
    assert registry.candidate(place).model_id == one


def damage(place):
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


def test_a_damaged_model_never_serves(anywhere):
    place, (one, two, three) = anywhere
    registry.promote(place, one, "the first")
    registry.promote(place, two, "better")
    damage(place / one / "model.safetensors")
    damage(place / three / "config.json")
    with pytest.raises(ModelFolderError, match=r"config\.json is damaged"):
        registry.promote(place, three, "a try")
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is damaged"):
        registry.rollback(place, "a try")
    assert registry.champion(place).model_id == two


def test_a_model_under_another_ones_name_never_serves(shelf):
    place, (one, two, _) = shelf
    shutil.rmtree(place / one)
    shutil.copytree(place / two, place / one)
    with pytest.raises(ModelFolderError, match=f"holds the model {two}"):
        registry.promote(place, one, "a try")


def test_the_folder_of_a_model_that_holds_another_one_is_named_whoever_reads_it(shelf):
    place, (one, two, _) = shelf
    shutil.rmtree(place / one)
    shutil.copytree(place / two, place / one)
    with (
        pytest.raises(ModelFolderError, match=rf"{one} holds the model {two}: restore the folder"),
        registry.verified(place, one),
    ):
        pass
    assert not registry.holds(place, one)


def test_what_a_model_is_can_be_read_without_its_weights(anywhere):
    place, (one, *_) = anywhere
    (place / one / "model.safetensors").unlink()
    assert registry.config(place, one).architecture == "resnet18"


def test_a_damaged_copy_is_replaced_when_the_model_comes_again(shelf, models):
    place, (one, *_) = shelf
    damage(place / one / "model.safetensors")
    registry.add_candidate(place, models[0])
    assert registry.promote(place, one, "whole again").model_id == one


def test_a_damaged_folder_is_not_taken_in(models, tmp_path):
    model = shutil.copytree(models[0], tmp_path / "model")
    damage(model / "model.safetensors")
    with pytest.raises(ModelFolderError, match="is damaged"):
        registry.add_candidate(tmp_path / "registry", model)
    assert registry.candidate(tmp_path / "registry") is None


def test_promoting_the_champion_changes_nothing(shelf):
    place, (one, *_) = shelf
    first = registry.promote(place, one, "the first")
    assert registry.promote(place, one, "again") == first
    assert len(registry.history(place)) == 1


def test_a_decision_on_a_champion_that_is_gone_is_not_carried_out(shelf):
    place, (one, two, three) = shelf
    registry.promote(place, one, "the first")
    registry.promote(place, two, "a human's choice", by="human")
    with pytest.raises(RegistryError, match=f"{three} was to replace {one}, but {two} serves by now"):
        registry.promote(place, three, "better than the first", instead_of=one)
    assert registry.champion(place).model_id == two


def test_going_back_goes_further_every_time(shelf):
    place, (one, two, three) = shelf
    for name in (one, two, three):
        registry.promote(place, name, "next")
    assert registry.rollback(place, "back").model_id == two
    assert registry.rollback(place, "further").model_id == one
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback(place, "beyond the first")
    registry.promote(place, three, "forward again")
    assert registry.rollback(place, "back again").model_id == one
    assert registry.rollback(place, "to a certain one", to=two).model_id == two


def test_going_back_is_possible_only_to_what_served(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    with pytest.raises(RegistryError, match=f"{two} never served; those that did: {one}"):
        registry.rollback(place, "a try", to=two)
    with pytest.raises(RegistryError, match=f"{one} serves already"):
        registry.rollback(place, "a try", to=one)


def test_rollbacks_go_back_through_what_served_one_step_each(shelf):
    place, (one, two, three) = shelf
    for name in (one, two, one, three):
        registry.promote(place, name, "next")
    assert [registry.rollback(place, "back").model_id for _ in range(3)] == [one, two, one]
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback(place, "beyond the first")


def test_a_rollback_does_not_land_on_a_refused_model(shelf):
    place, (one, two, three) = shelf
    for name in (one, two, three):
        registry.promote(place, name, "next")
    registry.refuse(place, two, "it reads m as n")
    with pytest.raises(
        RegistryError, match=f"{two} served before, but was refused: it reads m as n.*--force.*earlier: {one}"
    ):
        registry.rollback(place, "back")
    with pytest.raises(RegistryError, match="was refused"):
        registry.rollback(place, "back", force=True)
    assert registry.rollback(place, "back", to=two, force=True).model_id == two
    registry.promote(place, three, "forward again")
    assert registry.rollback(place, "back", to=one).model_id == one


def test_what_a_person_went_back_over_is_not_promoted_by_the_rule(shelf):
    place, (one, two, three) = shelf
    for name in (one, two, three):
        registry.promote(place, name, "next")
    registry.rollback(place, "all newer data is wrong", to=one)
    assert {name: bool(registry.barred(place, name)) for name in (one, two, three)} == {
        one: False,
        two: True,
        three: True,
    }
    registry.promote(place, two, "it was right after all", by="human")
    assert registry.barred(place, two) is None
    assert registry.barred(place, one).startswith("replaced by a person: it was right after all")


def test_the_rule_goes_back_to_the_last_model_promoted_for_its_accuracy(shelf):
    place, (one, two, three) = shelf
    registry.promote(place, one, "the first", {"ground": "first model"})
    for name in (two, three):
        registry.promote(place, name, "newer data", {"ground": registry.NEWER_DATA})
        assert registry.reference(registry.history(place)) == one
    registry.promote(place, two, "a person's choice", by="human")
    assert registry.reference(registry.history(place)) == two
    registry.rollback(place, "back")
    assert registry.reference(registry.history(place)) == one


class Shelf:
    """What a registry ought to do, in the plainest way: a list of what served, and a set of refusals."""

    def __init__(self):
        self.served, self.refused = [], set()

    def promote(self, name):
        if self.served[-1:] != [name]:
            self.served.append(name)

    def rollback(self):
        if len(self.served) < 2 or self.served[-2] in self.refused:
            return False
        self.served.pop()
        return True

    def rollback_to(self, name, known):
        if name not in known or self.served[-1] == name:
            return False
        earlier = [place for place, one in enumerate(self.served) if one == name]
        if earlier:
            del self.served[earlier[-1] + 1 :]
        else:
            self.served.append(name)
        return True

    def refuse(self, name):
        if name in self.refused or self.served[-1:] == [name]:
            return False
        self.refused.add(name)
        return True


def _attempt(action):
    try:
        action()
    except RegistryError:
        return False
    return True


STEPS = st.tuples(st.sampled_from(["promote", "rollback", "to", "refuse"]), st.integers(0, 2))


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=14))
def test_whatever_is_promoted_refused_and_rolled_back_what_serves_is_what_ought_to(
    models, tmp_path_factory, steps
):
    place, ought = tmp_path_factory.mktemp("registry"), Shelf()
    ids, known = [registry.add_candidate(place, model) for model in models], set()
    for step, index in steps:
        name = ids[index]
        if step == "promote":
            registry.promote(place, name, "next")
            ought.promote(name)
            known.add(name)
        elif step == "rollback":
            assert _attempt(lambda: registry.rollback(place, "back")) == ought.rollback()
        elif step == "to":
            done = _attempt(lambda name=name: registry.rollback(place, "back", to=name, force=True))
            assert done == (bool(known) and ought.rollback_to(name, known))
        else:
            done = _attempt(lambda name=name: registry.refuse(place, name, "no"))
            assert done == ought.refuse(name)
        serves = registry.champion(place)
        assert (serves.model_id if serves else None) == (ought.served[-1] if ought.served else None)
    for name in ids:
        assert bool(registry.refusal(place, name)) == (name in ought.refused)
        assert registry.barred(place, name) is None or name not in ought.served[-1:] or name in ought.refused


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["0", "1", "2", "back"]), max_size=12))
def test_a_history_only_ever_grows(models, tmp_path_factory, steps):
    place = tmp_path_factory.mktemp("registry")
    ids = [registry.add_candidate(place, model) for model in models]
    past: list[bytes] = []
    for step in steps:
        try:
            if step == "back":
                registry.rollback(place, "back")
            else:
                registry.promote(place, ids[int(step)], "next")
        except RegistryError:
            assert step == "back"
        files = sorted((place / "history").iterdir()) if (place / "history").exists() else []
        now = [file.read_bytes() for file in files]
        assert now[: len(past)] == past
        past = now
    entries = registry.history(place)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.instead_of for entry in entries] == [None, *(entry.model_id for entry in entries)][
        : len(entries)
    ]
    assert registry.champion(place) == (entries[-1] if entries else None)


def _change(place, ids, rounds, seed):
    chance = random.Random(seed)
    for _ in range(rounds):
        registry.promote(place, chance.choice(ids), f"by {seed}")


def _watch(place, until, found):
    last = 0
    while not until.is_set():
        champion = registry.champion(place)
        if champion is None or champion.number < last:
            found.set()
        last = champion.number if champion else 0


@pytest.mark.slow
def test_changes_by_several_processes_at_once_are_one_after_the_other_to_every_reader(shelf):
    place, ids = shelf
    registry.promote(place, ids[0], "the first")
    until, found = CONTEXT.Event(), CONTEXT.Event()
    reader = CONTEXT.Process(target=_watch, args=(place, until, found))
    writers = [CONTEXT.Process(target=_change, args=(place, ids, 15, seed)) for seed in range(3)]
    for process in (reader, *writers):
        process.start()
    for process in writers:
        process.join()
    until.set()
    reader.join()
    assert [process.exitcode for process in (reader, *writers)] == [0, 0, 0, 0]
    assert not found.is_set()
    entries = registry.history(place)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert all(entry.instead_of == before.model_id for before, entry in pairwise(entries))
    assert len({entry.reason for entry in entries}) == 4


#: Rounds in which 8 processes decide on the same champion, and promote at once.
ROUNDS, PROCESSES = 5, 8


def _promote_at_once(place, number, environment, barrier, answers):
    os.environ.update(environment)
    place = UPath(place, use_listings_cache=False)
    ids = registry.list_models(place)
    for round_ in range(ROUNDS):
        serves = registry.champion(place).model_id
        others = [one for one in ids if one != serves]
        barrier.wait()
        reason = f"round {round_} by {number}"
        try:
            found = registry.promote(place, others[number % 2], reason, instead_of=serves).reason
        except RegistryError as error:
            found = str(error)
        answers.put((round_, found == reason))
        barrier.wait()


@pytest.mark.slow
def test_of_8_processes_that_promote_at_once_instead_of_one_champion_one_does(anywhere):
    place, ids = anywhere
    registry.promote(place, ids[0], "the first")
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    barrier, answers = CONTEXT.Barrier(PROCESSES), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_promote_at_once, args=(str(place), number, environment, barrier, answers))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=300) for _ in range(ROUNDS * PROCESSES)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert sorted(round_ for round_, promoted in found if promoted) == list(range(ROUNDS))
    entries = registry.history(place)
    assert [entry.reason.split(" by ")[0] for entry in entries[1:]] == [f"round {n}" for n in range(ROUNDS)]
    assert all(entry.instead_of == before.model_id for before, entry in pairwise(entries))


@pytest.mark.slow
def test_a_change_that_is_killed_happened_wholly_or_not_at_all(shelf):
    place, ids = shelf
    registry.promote(place, ids[0], "the first")
    chance = random.Random(0)
    for seed in range(6):
        before = len(registry.history(place))
        process = CONTEXT.Process(target=_change, args=(place, ids, 10_000, seed))
        process.start()
        while len(registry.history(place)) <= before:
            time.sleep(0.001)
        time.sleep(chance.random() / 50)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        entries = registry.history(place)
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        assert registry.champion(place) == entries[-1]
    assert registry.promote(place, next(name for name in ids if name != entries[-1].model_id), "goes on")


WHOLE = {
    "number": 1,
    "model_id": "m",
    "since": "2026-11-24T10:00:00+00:00",
    "instead_of": None,
    "reason": "r",
}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "Expecting property name"),
        ("[]", r"it holds \[\], not an object"),
        ("{}", "it has no number, model_id, since, instead_of, reason"),
        (json.dumps(WHOLE | {"since": "yesterday"}), "since is 'yesterday', not a time"),
        (json.dumps(WHOLE | {"number": "1"}), "number is '1'"),
        (json.dumps(WHOLE | {"number": True}), "number is True"),
        (json.dumps(WHOLE | {"number": 7}), "its number is 7"),
        (json.dumps(WHOLE | {"metrics": []}), r"metrics is \[\]"),
        (json.dumps(WHOLE | {"model_id": "../../etc"}), r"model_id is '\.\./\.\./etc', not an id"),
        (json.dumps(WHOLE | {"surprise": 1}), "unknown fields: surprise"),
        ("\0\udcff", "decode"),
    ],
)
def test_a_damaged_history_is_named_with_its_fault(shelf, content, fault):
    place, (one, *_) = shelf
    registry.promote(place, one, "the first")
    path = place / "history" / "000001.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    for look in (registry.champion, registry.history):
        with pytest.raises(RegistryError, match=rf"000001\.json is damaged: .*{fault}.*restore it"):
            look(place)


def test_a_record_that_was_edited_is_named_and_one_of_a_version_without_hashes_is_not(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first", {"by count": {2: 0.5, 10: 0.9}})
    registry.refuse(place, two, "it reads m as n")
    pointer, history, refused = (
        place / name for name in ("candidate.json", "history/000001.json", f"refused/{two}.json")
    )
    for path, look, remedy in (
        (pointer, registry.candidate, "captcha-assets update writes it again"),
        (history, registry.champion, "restore it from a backup"),
        (history, registry.history, "restore it from a backup"),
        (refused, lambda place: registry.refusal(place, two), "restore it from a backup"),
    ):
        whole, content = look(place), path.read_text()
        path.write_text(content.replace("resnet18-", "resnet18-0"))
        with pytest.raises(RegistryError, match=rf"{path} is damaged: it was changed after .*; {remedy}"):
            look(place)
        path.write_text(json.dumps({k: v for k, v in json.loads(content).items() if k != "sha256"}))
        assert look(place) == whole
        path.write_text(content)
        assert look(place) == whole


def test_an_entry_that_is_missing_between_others_is_named_and_no_rollback_skips_it(shelf):
    place, (one, two, three) = shelf
    for model in (one, two, three):
        registry.promote(place, model, "promoted")
    (place / "history" / "000002.json").unlink()
    for look in (registry.history, lambda place: registry.rollback(place, "back")):
        with pytest.raises(RegistryError, match=r"000002\.json is missing: restore it"):
            look(place)
    assert registry.champion(place).model_id == three


@pytest.mark.parametrize("lost", ["000003.json", ""], ids=["the last record", "the history"])
def test_where_the_last_change_is_lost_the_model_before_does_not_serve_unnoticed(shelf, lost):
    place, (one, two, three) = shelf
    for model in (one, two, three):
        registry.promote(place, model, "promoted")
    kept = shutil.copytree(place / "history", place.parent / "kept")
    shutil.rmtree(place / "history")
    if lost:
        shutil.copytree(kept, place / "history")
        (place / "history" / lost).unlink()
    looks = (
        registry.champion, registry.history, lambda place: registry.rollback(place, "back"),
        lambda place: registry.promote(place, one, "again"),
    )  # fmt: skip
    for look in looks:
        with pytest.raises(
            RegistryError, match=r"000003\.json is missing, which says what serves: restore it"
        ):
            look(place)
    shutil.copytree(kept, place / "history", dirs_exist_ok=True)
    assert registry.champion(place).model_id == three
    shutil.rmtree(place / "history")
    (place / "latest_change.json").unlink()  # as the message says, where there is no copy
    assert registry.champion(place) is None


def test_where_all_of_the_history_is_lost_and_a_decision_names_a_champion_nothing_is_the_first_model(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    promotion_records.record(
        place, Decision(two, one, "split", "v1", registry.now(), False, None, "worse", [])
    )
    as_if_nothing_served(place)
    for read in (registry.champion, registry.history):
        with pytest.raises(RegistryError, match=r"history is missing, which says what .*restore it from"):
            read(place)
    with pytest.raises(RegistryError, match="history is missing"):
        registry.promote(place, two, "the first model")


def test_where_all_of_the_history_is_lost_another_candidate_is_not_the_first_model(shelf):
    place, (one, two, three) = shelf
    first = Decision(one, None, "split", "v1", registry.now(), True, "first", "the first", [])
    promotion_records.record(place, first)
    registry.make_candidate(place, one)
    assert registry.champion(place) is None, "killed before the promotion: it is carried out yet"
    for candidate in (two, three):
        registry.make_candidate(place, candidate)
        with pytest.raises(RegistryError, match=rf"history is missing, .*{one}--none--split.json tells of a"):
            registry.promote(place, candidate, "the first model")


def test_a_registry_of_a_version_that_kept_no_number_serves_as_it_did(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "promoted")
    (place / "latest_change.json").unlink()
    assert registry.champion(place).model_id == one
    registry.promote(place, two, "promoted")
    assert json.loads((place / "latest_change.json").read_text())["number"] == 2


def test_the_history_is_files_that_anyone_can_read(shelf):
    place, (one, *_) = shelf
    registry.promote(place, one, "the first", {"accuracy": 0.9})
    entry = json.loads((place / "history" / "000001.json").read_text())
    assert (entry["model_id"], entry["reason"], entry["metrics"]) == (one, "the first", {"accuracy": 0.9})
    assert (place / "history" / "000001.json").stat().st_mode & 0o444 == 0o444


def test_the_rule_may_promote_whatever_nobody_spoke_against(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    assert registry.barred(place, one) is None
    assert registry.barred(place, two) is None


def test_a_refused_model_is_barred_and_the_champion_stays(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    refusal = registry.refuse(place, two, "it reads m as n")
    assert registry.barred(place, two) == f"refused: it reads m as n ({shown_time(refusal.since)})"
    assert registry.champion(place).model_id == one
    with pytest.raises(RegistryError, match="was refused before: it reads m as n"):
        registry.refuse(place, two, "another reason")


def test_the_champion_cannot_be_refused_only_rolled_back(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    registry.promote(place, two, "better")
    with pytest.raises(RegistryError, match="take it back with a rollback"):
        registry.refuse(place, two, "it reads m as n")
    registry.rollback(place, "it reads m as n")
    assert "rolled back: it reads m as n" in registry.barred(place, two)
    assert registry.barred(place, one) is None


def test_a_person_may_promote_what_a_person_refused(shelf):
    place, (one, two, _) = shelf
    registry.promote(place, one, "the first")
    registry.refuse(place, two, "not yet")
    assert registry.promote(place, two, "now", by="human").model_id == two
