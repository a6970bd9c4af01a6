"""The picture of the asset graph: up to date, and legible whatever the graph."""

from itertools import combinations, pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets import graph_picture
from captcha_assets.cli.graph import PICTURE
from captcha_assets.definitions import defs
from captcha_assets.defs.graph import assets_of, groups_of
from captcha_assets.graph_picture import Asset, described, description_of, draw


def asset(name: str, *inputs: str, parts: str | None = None, made: bool = True) -> Asset:
    return Asset(name, "group", ("parquet",), parts, made, inputs)


DIAMOND = [asset("a"), asset("b", "a"), asset("c", "a", parts="batch"), asset("d", "b", "c", "a")]


@st.composite
def graphs(draw_from) -> list[Asset]:
    names = [f"asset_{number}" for number in range(draw_from(st.integers(1, 8)))]
    return [
        asset(
            name,
            *draw_from(st.lists(st.sampled_from(names[:number] or names[:1]), unique=True)) if number else (),
        )
        for number, name in enumerate(names)
    ]


def test_the_picture_in_the_readme_shows_the_assets_as_they_are() -> None:
    assert description_of(PICTURE) == described(assets_of(defs())), "run: captcha-assets graph"


def test_every_group_has_its_place_in_the_legend() -> None:
    assets = assets_of(defs())
    groups = groups_of(assets)
    assert groups[:4] == ["source", "images", "dataset", "model"]
    assert {one.group for one in assets} == set(groups)


def test_a_picture_carries_its_graph(tmp_path: Path) -> None:
    draw(DIAMOND, ["group"], tmp_path / "graph.png")
    assert description_of(tmp_path / "graph.png") == described(DIAMOND)
    assert described(DIAMOND[::-1]) == described(DIAMOND)
    assert described(DIAMOND[:3]) != described(DIAMOND)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw(DIAMOND, ["group"], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@settings(max_examples=30)
@given(graphs())
def test_boxes_and_lines_keep_apart_and_inputs_lie_above(assets: list[Asset]) -> None:
    places = graph_picture._places(assets)
    for one, other in combinations(places, 2):
        (x, y), (to_x, to_y) = places[one], places[other]
        if y == to_y:
            assert abs(x - to_x) >= graph_picture._apart(one, other) - 1e-6
    for below in assets:
        for above in below.inputs:
            way = [places[one] for one in graph_picture._way(above, below.name, places)]
            heights = [y for _, y in way]
            assert heights == sorted(heights, reverse=True)
            # one layer at a time: a line never skips one, where a box might be
            steps = {round(one - two, 6) for one, two in pairwise(heights)}
            assert steps == {graph_picture._LAYER}
