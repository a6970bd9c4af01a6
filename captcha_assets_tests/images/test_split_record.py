"""The record of split assignments: only grows, is complete or damaged in one line, and is merged."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from captcha_assets.atomic_files import remove
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.split_assignment import NEAR_DUPLICATE_OF_TWO_SPLITS, update_splits
from captcha_assets.images.split_record import AssignmentError, AssignmentRecord
from captcha_assets.images.table_parts import MANIFEST, of_earlier_version
from captcha_assets_tests.images.tables import content, rows_of
from captcha_assets_tests.images.test_split_assignment import identity, index_of, split_by_image, write_index

BATCHES = {name: range(start, start + 30) for name, start in {"a": 0, "b": 20, "c": 60, "d": 75}.items()}


class Home:
    """Splits and their record in a folder, over the batches that are there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.target = folder, folder / "table"
        self.record = AssignmentRecord(folder / "data" / "splits", folder / "scratch")

    def update(self, images: dict[int, str | None], *, accept_loss: bool = False) -> str:
        """Assign splits to these images; tens of a decade are near-duplicates."""
        pairs = [{number, number + 1} for number in range(0, 110, 10)]
        index_of(images, pairs).write_parquet(self.folder / "index.parquet")
        return update_splits(
            self.folder / "index.parquet", self.target, self.record, CAPTCHA, accept_loss=accept_loss
        ).version

    def split_by_image(self) -> dict[str, str]:
        return split_by_image(rows_of(self.target))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


class EveryHistory(RuleBasedStateMachine):
    """Batches come and go, labels conflict, files are lost, and another machine pulls what is recorded."""

    @initialize()
    def begin(self) -> None:
        self.work = Path(tempfile.mkdtemp())
        self.home = Home(self.work / "0")
        self.homes, self.there, self.conflicts = 1, set(), set()
        self.ever: dict[str, str] = {}

    def images(self) -> dict[int, str | None]:
        numbers = {number for name in self.there for number in BATCHES[name]}
        return {n: None if n in self.conflicts else "ab"[n // 10 % 2] for n in sorted(numbers)}

    def update(self) -> None:
        self.version = self.home.update(self.images())
        now = self.home.split_by_image()
        # the promise
        assert {name: self.ever.get(name, split) for name, split in now.items()} == now
        self.ever |= now

    @rule(name=st.sampled_from(sorted(BATCHES)))
    def a_batch_comes_or_leaves_its_quarantine(self, name: str) -> None:
        self.there.add(name)
        self.update()

    @rule(name=st.sampled_from(sorted(BATCHES)))
    def a_batch_is_removed_or_quarantined(self, name: str) -> None:
        self.there.discard(name)
        self.update()

    @rule(number=st.integers(0, 104))
    def a_label_conflict_appears_or_is_resolved(self, number: int) -> None:
        self.conflicts ^= {number}
        self.update()

    @precondition(lambda self: self.ever)
    @rule()
    def the_splits_are_lost_and_made_again(self) -> None:
        self.update()
        before = content(self.home.target)
        remove(self.home.target)
        self.update()
        assert content(self.home.target) == before

    @rule()
    def another_machine_pulls_the_data(self) -> None:
        self.update()
        other = Home(self.work / str(self.homes))
        if self.home.record.folder.exists():
            shutil.copytree(self.home.record.folder, other.record.folder)
        self.homes += 1
        version, self.home = self.version, other
        self.update()
        assert self.version == version

    @invariant()
    def usable_images_have_a_split_or_tie_two(self) -> None:
        if not self.ever:
            return
        rows = rows_of(self.home.target).filter(pl.col("split").is_null(), pl.col("label").is_not_null())
        assert rows["exclusion_reason"].eq(NEAR_DUPLICATE_OF_TWO_SPLITS).all()

    def teardown(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


EveryHistory.TestCase.settings = settings(
    max_examples=settings.default.max_examples // 3, stateful_step_count=10, deadline=None
)
TestAnImageKeepsItsSplitOverEveryHistory = EveryHistory.TestCase


def labelled(numbers: range) -> dict[int, str | None]:
    return dict.fromkeys(numbers, "a")


def test_each_round_adds_a_file_and_none_is_ever_changed(home: Home) -> None:
    home.update(labelled(range(30)))
    first = {path.name: path.read_bytes() for path in home.record.folder.iterdir()}
    home.update(labelled(range(10, 50)))
    second = {path.name: path.read_bytes() for path in home.record.folder.iterdir()}
    assert len(first) == 1
    assert len(second) == 2
    assert first.items() <= second.items()
    assert home.record.read().group_by("round").len().sort("round").rows() == [(1, 30), (2, 20)]


def test_the_record_is_the_same_bytes_on_every_machine(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    for one in (home, other):
        one.update(labelled(range(30)))
    (file,) = home.record.files()
    assert other.record.files() == [file]
    assert (home.record.folder / file).read_bytes() == (other.record.folder / file).read_bytes()


def test_a_lost_file_stops_in_one_line_that_says_how_to_restore_it(home: Home) -> None:
    home.update(labelled(range(30)))
    home.update(labelled(range(60)))
    (home.record.folder / home.record.files()[0]).unlink()
    before = content(home.target)
    with pytest.raises(
        AssignmentError, match=r"1 of 2 files are missing.*dvc checkout data/splits"
    ) as raised:
        home.update(labelled(range(90)))
    assert "\n" not in str(raised.value)
    assert content(home.target) == before


@pytest.mark.parametrize("damage", [b"", b"garbage", b"PAR1"])
def test_a_damaged_file_stops_in_one_line_that_names_it(home: Home, damage: bytes) -> None:
    home.update(labelled(range(30)))
    file = home.record.folder / home.record.files()[0]
    file.write_bytes(damage)
    with pytest.raises(AssignmentError, match=rf"{file.name} is damaged: delete the file.*dvc checkout"):
        home.update(labelled(range(60)))


def test_a_file_with_other_rows_than_it_was_written_with_is_damaged(home: Home) -> None:
    home.update(labelled(range(30)))
    home.update(labelled(range(60)))
    first, second = (home.record.folder / name for name in home.record.files())
    shutil.copy(second, first)
    with pytest.raises(AssignmentError, match=rf"{first.name} is damaged"):
        home.record.read()


def test_a_table_with_another_name_beside_the_record_is_not_passed_over(home: Home) -> None:
    home.update(labelled(range(30)))
    file = home.record.folder / home.record.files()[0]
    file.rename(file.with_name(f"copy of {file.name}"))
    with pytest.raises(AssignmentError, match=r"copy of .* is not named as a file of the record.*again"):
        home.update(labelled(range(60)))


def test_a_loss_that_is_accepted_keeps_what_the_splits_still_say(home: Home) -> None:
    home.update(labelled(range(60)))
    home.update(labelled(range(30, 60)))
    before = home.split_by_image()
    shutil.rmtree(home.record.folder)
    home.update(labelled(range(90)), accept_loss=True)
    assert home.split_by_image().items() >= before.items()
    home.update(labelled(range(90)))


def test_splits_of_a_version_without_a_record_become_its_first_file(home: Home) -> None:
    home.update(labelled(range(60)))
    before = home.split_by_image()
    old = rows_of(home.target)
    # another assignment than this version would make, so that it shows who is asked
    turned = {"train": "test", "test": "train", "validation": "validation"}
    remove(home.target)
    old.with_columns(pl.col("split").replace(turned)).write_parquet(of_earlier_version(home.target))
    shutil.rmtree(home.record.folder)
    home.update(labelled(range(90)))
    assert home.split_by_image().items() >= {name: turned[split] for name, split in before.items()}.items()
    assert len(home.record.files()) == 2


def test_damaged_splits_are_made_again_from_the_record_and_from_nothing_else(home: Home) -> None:
    home.update(labelled(range(60)))
    before = content(home.target)
    (home.target / MANIFEST).write_bytes(b"garbage")
    home.update(labelled(range(60)))
    assert content(home.target) == before
    (home.target / MANIFEST).write_bytes(b"garbage")
    shutil.rmtree(home.record.folder)
    with pytest.raises(AssignmentError, match=r"table is damaged.*dvc checkout data/splits"):
        home.update(labelled(range(60)))


def test_the_records_of_two_machines_are_merged_and_an_image_in_two_splits_is_excluded(
    home: Home, tmp_path: Path
) -> None:
    home.update(labelled(range(40)))
    other = Home(tmp_path / "other")
    shutil.copytree(home.record.folder, other.record.folder)
    home.update(labelled(range(60)))
    other.update(labelled(range(52, 109)))
    here, there = home.split_by_image(), other.split_by_image()
    for name in other.record.files():
        shutil.copy(other.record.folder / name, home.record.folder)
    home.update(labelled(range(109)))
    both = home.split_by_image()
    twice = {name for name in here.keys() & there.keys() if here[name] != there[name]}
    assert twice
    excluded = rows_of(home.target).filter(exclusion_reason="assigned_to_two_splits")["image_id"]
    assert set(excluded) == twice
    known = {name: split for name, split in (here | there).items() if name not in twice}
    assert {name: split for name, split in known.items() if both.get(name, split) != split} == {}


TWO_AT_ONCE = """
import sys
from pathlib import Path
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.split_assignment import update_splits

folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
record = AssignmentRecord(folder / "data", folder / "s")
update_splits(folder / sys.argv[2], folder / "table", record, CAPTCHA)
"""


def test_two_updates_at_once_assign_each_image_once(tmp_path: Path) -> None:
    for number in range(2):
        write_index(tmp_path / f"index-{number}.parquet", labelled(range(500 + 500 * number)))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_AT_ONCE, str(tmp_path), f"index-{number}.parquet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("\n")
        assert process.returncode == 0
    record = AssignmentRecord(tmp_path / "data", tmp_path / "s")
    every = pl.concat(pl.read_parquet(tmp_path / "data" / name) for name in record.files())
    assert len(every) == every["image_id"].n_unique() == 1000


def test_a_record_of_many_small_rounds_is_read_like_one(tmp_path: Path) -> None:
    record = AssignmentRecord(tmp_path / "data", tmp_path / "scratch")
    for number in range(50):
        record.append(
            pl.DataFrame({"image_id": [identity(number)], "split": ["train"], "label": ["a"], "batch": ["b"]})
        )
    found = record.read()
    assert sorted(found["round"]) == list(range(1, 51))
    assert found["image_id"].is_sorted()
