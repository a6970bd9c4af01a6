"""What somebody decided about an image is honoured by the next index, and by nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import image_id
from captcha_assets.images.index import build_image_index
from captcha_assets.images.label_decisions import DecisionError, read_decisions, version_of
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.sources.synthetic_batches import render
from captcha_assets_tests.images.tables import rows_of, write_table

CHANCE = np.random.default_rng(0)
A, B, C = (render(label, CHANCE) for label in "abc")
HEAD = "image_id,decision,label,reason"


@pytest.fixture
def decide(tmp_path):
    """Index two batches that contradict each other about A, with these decisions; return the rows."""
    tables = {
        "one": write_table(tmp_path / "one.parquet", "one", [("a", A), ("b", B), ("c", C)]),
        "two": write_table(tmp_path / "two.parquet", "two", [("b", A)]),
    }

    def decide(*lines):
        path = tmp_path / "decisions.csv"
        path.write_text("\n".join([HEAD, *lines]) + "\n")
        decide.idle = build_image_index(tables, tmp_path / "index", CAPTCHA, path).idle_decisions
        rows = rows_of(tmp_path / "index").select("image_id", "label", "status").rows()
        return {name: rest for name, *rest in rows}

    return decide


UNDECIDED = {
    image_id(A): [None, "label_conflict"],
    image_id(B): ["b", "usable"],
    image_id(C): ["c", "usable"],
}


def test_nothing_is_decided_by_an_empty_file_or_none(decide, tmp_path):
    assert decide() == UNDECIDED
    build_image_index({}, tmp_path / "other.parquet", CAPTCHA, tmp_path / "no.csv")


def test_keep_resolves_a_conflict_with_a_label_the_image_came_with(decide):
    assert decide(f"{image_id(A)},keep,b,looks like it") == UNDECIDED | {image_id(A): ["b", "usable"]}


def test_keep_of_a_label_that_no_source_of_a_conflict_states_is_an_error_that_names_those_stated(decide):
    with pytest.raises(DecisionError) as error:
        decide(f"{image_id(B)},drop,,", f"{image_id(A)},keep,w,")
    assert str(error.value).endswith(
        f"decisions.csv, line 3: keep w, but the sources of {image_id(A)} state a, b (one/a_0.png says a;"
        " two/b_0.png says b): keep one of these, or relabel"
    )


def test_keep_of_a_label_that_no_source_states_is_a_warning_where_they_agree(decide):
    """Whether its batch was removed or the label mistyped, nobody can tell, and nothing hangs on it."""
    assert decide(f"{image_id(B)},keep,w,") == UNDECIDED
    [line] = decide.idle
    assert line.startswith(f"decisions.csv, line 2: keep w, but all sources of {image_id(B)} state b;")


def test_relabel_gives_any_image_another_label(decide):
    decided = decide(f"{image_id(A)},relabel,w,", f'{image_id(B)},relabel,y,"no, really"')
    assert decided == UNDECIDED | {image_id(A): ["w", "usable"], image_id(B): ["y", "usable"]}


def test_drop_takes_an_image_out(decide):
    decided = decide(f"{image_id(A)},drop,,", f"{image_id(C)},drop,,")
    assert decided == {image_id(B): ["b", "usable"]}


def test_a_decision_about_an_unknown_image_is_a_warning_and_does_nothing(decide):
    assert decide(f"{image_id(A)},keep,a,", f"{'0' * 32},drop,,") != UNDECIDED
    assert decide.idle == (
        f"decisions.csv, line 3: no batch here holds the image {'0' * 32}; the line does nothing",
    )


def test_a_decision_with_an_effect_is_no_warning(decide):
    decide(f"{image_id(A)},keep,b,", f"{image_id(B)},relabel,w,", f"{image_id(C)},drop,,")
    assert decide.idle == ()


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff{HEAD}\n{image_id(A)},keep,b,why\n".encode(),
        f"{HEAD}\r\n{image_id(A)},keep,b,why\r\n".encode(),
        f"\ufeff{HEAD}\r\n{image_id(A)},keep,b,why\r\n,,,\r\n".replace(",", ";").encode(),
        f'{HEAD}\n\n{image_id(A)},keep,b,"why,\nin two ""lines"""\n'.encode(),
        f"image_id, decision, label, reason\n{image_id(A)}, keep, b, why".encode(),
        f"{HEAD}\r{image_id(A)},keep,b,why\r".encode(),
    ],
    ids=["byte order mark", "CRLF", "Excel with semicolons", "quoted newline", "spaces", "CR"],
)
def test_a_file_as_spreadsheets_and_editors_write_it_is_understood(content, tmp_path):
    (tmp_path / "decisions.csv").write_bytes(content)
    rows = (
        read_decisions(tmp_path / "decisions.csv", CAPTCHA).select("image_id", "decision", "decided").rows()
    )
    assert rows == [(image_id(A), "keep", "b")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_a_file_that_is_not_utf8_is_an_error_that_names_the_line(encoding, tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_bytes(f"{HEAD}\n{image_id(A)},keep,b,schön\n".encode(encoding))
    number = 1 if encoding == "utf-16" else 2
    with pytest.raises(
        DecisionError, match=rf"decisions.csv, line {number}: byte 0x.. is not UTF-8: save"
    ) as error:
        read_decisions(path, CAPTCHA)
    assert "\n" not in str(error.value)


@given(
    st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: f"{HEAD}\n{text}".encode(errors="replace"))
)
def test_any_bytes_are_decisions_or_an_error_that_names_file_and_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "decisions.csv"
    path.write_bytes(content)
    words = str(path)
    try:
        read_decisions(path, CAPTCHA)
    except DecisionError as error:
        words = str(error)
    assert words.startswith(str(path))
    assert "\n" not in words


def test_a_decided_image_gets_its_place_and_the_others_keep_theirs(decide, tmp_path):
    index, splits = tmp_path / "index", tmp_path / "splits"
    record = AssignmentRecord(tmp_path / "data" / "splits", tmp_path / "scratch")
    places = []
    for lines in ([], [f"{image_id(A)},keep,a,"], [f"{image_id(A)},relabel,w,"]):
        decide(*lines)
        update_splits(index, splits, record, CAPTCHA)
        places.append(dict(rows_of(splits).select("image_id", "split").iter_rows()))
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
        (f"{HEAD}\n{'0' * 32},drop,,\n{'0' * 32},drop,,\n", "line 3: decides about 0+ again, as line 2 does"),
        (f'{HEAD}\n{"0" * 32},drop,,"a\nb"\nabc,keep,a,\n', "line 4: 'abc' is no image_id"),
        (f'{HEAD}\n{"0" * 32},drop,,"never closed\n', "line 2: cannot be read as CSV"),
    ],
)
def test_a_line_that_cannot_be_followed_is_named(text, words, tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(text)
    with pytest.raises(DecisionError, match=words):
        build_image_index({}, tmp_path / "index", CAPTCHA, path)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere/at/all")])
def test_what_is_no_regular_file_is_an_error_and_a_change(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "label_decisions.csv"
    assert version_of(path) is None
    make(path)
    assert version_of(path) is not None
    with pytest.raises(DecisionError, match=r"label_decisions.csv is no regular file"):
        read_decisions(path, CAPTCHA)
