"""What somebody decided about an image is honoured by the next index, and by nothing else."""

import numpy as np
import polars as pl
import pytest

from captcha_assets.images.assignments import AssignmentRecord
from captcha_assets.images.decisions import DecisionError
from captcha_assets.images.features import image_id
from captcha_assets.images.index import build_image_index
from captcha_assets.images.splits import update_splits
from captcha_assets.sources.generator import render
from captcha_assets_tests.images.tables import write_table

CHANCE = np.random.default_rng(0)
A, B, C = (render(label, CHANCE) for label in "abc")
HEAD = "image_id,decision,label,reason"


@pytest.fixture
def decide(tmp_path):
    """Index two deliveries that contradict each other about A, with these decisions; return the rows."""
    tables = {
        "one": write_table(tmp_path / "one.parquet", "one", [("a", A), ("b", B), ("c", C)]),
        "two": write_table(tmp_path / "two.parquet", "two", [("b", A)]),
    }

    def decide(*lines):
        path = tmp_path / "decisions.csv"
        path.write_text("\n".join([HEAD, *lines]) + "\n")
        build_image_index(tables, tmp_path / "index.parquet", path)
        rows = pl.read_parquet(tmp_path / "index.parquet").select("image_id", "label", "status").rows()
        return {name: rest for name, *rest in rows}

    return decide


UNDECIDED = {
    image_id(A): [None, "label_conflict"],
    image_id(B): ["b", "usable"],
    image_id(C): ["c", "usable"],
}


def test_nothing_is_decided_by_an_empty_file_or_none(decide, tmp_path):
    assert decide() == UNDECIDED
    build_image_index({}, tmp_path / "other.parquet", tmp_path / "no.csv")


def test_keep_resolves_a_conflict_with_a_label_the_image_came_with(decide):
    assert decide(f"{image_id(A)},keep,b,looks like it") == UNDECIDED | {image_id(A): ["b", "usable"]}


def test_keep_of_a_label_it_did_not_come_with_does_nothing(decide):
    assert decide(f"{image_id(A)},keep,w,", f"{image_id(B)},keep,w,") == UNDECIDED


def test_relabel_gives_any_image_another_label(decide):
    decided = decide(f"{image_id(A)},relabel,w,", f'{image_id(B)},relabel,y,"no, really"')
    assert decided == UNDECIDED | {image_id(A): ["w", "usable"], image_id(B): ["y", "usable"]}


def test_drop_takes_an_image_out(decide):
    decided = decide(f"{image_id(A)},drop,,", f"{image_id(C)},drop,,")
    assert decided == {image_id(B): ["b", "usable"]}


def test_a_decision_about_an_unknown_image_does_nothing(decide):
    assert decide(f"{'0' * 32},drop,,") == UNDECIDED


def test_a_decided_image_gets_its_place_and_the_others_keep_theirs(decide, tmp_path):
    index, splits = tmp_path / "index.parquet", tmp_path / "splits.parquet"
    record = AssignmentRecord(tmp_path / "data" / "splits", tmp_path / "scratch")
    places = []
    for lines in ([], [f"{image_id(A)},keep,a,"], [f"{image_id(A)},relabel,w,"]):
        decide(*lines)
        update_splits(index, splits, record)
        places.append(dict(pl.read_parquet(splits).select("image_id", "split").iter_rows()))
    assert [place[image_id(A)] for place in places] == [None, "train", "train"]
    assert len({(place[image_id(B)], place[image_id(C)]) for place in places}) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\n", "first line must read image_id,decision,label,reason"),
        (f"{HEAD}\nabc,keep,a,\n", "line 2: 'abc' is no image_id"),
        (f"{HEAD}\n{'0' * 32},throw,a,\n", "line 2: decision 'throw' is not one of keep, relabel, drop"),
        (f"{HEAD}\n{'0' * 32},keep,z,\n", "label 'z' is not one of"),
        (f"{HEAD}\n{'0' * 32},relabel,,\n", "label '' is not one of"),
        (f"{HEAD}\n{'0' * 32},drop,a,\n", "drop takes no label"),
        (f"{HEAD}\n{'0' * 32},drop\n", "needs 4 fields"),
        (f"{HEAD}\n{'0' * 32},drop,,a,b\n", "needs 4 fields"),
        (f"{HEAD}\n{'0' * 32},drop,,\n{'0' * 32},drop,,\n", "line 3: decides about 0+ again"),
    ],
)
def test_a_line_that_cannot_be_followed_is_named(text, words, tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(text)
    with pytest.raises(DecisionError, match=words):
        build_image_index({}, tmp_path / "index.parquet", path)
    assert not (tmp_path / "index.parquet").exists()
