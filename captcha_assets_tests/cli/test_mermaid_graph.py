"""The asset graph in the README shows the assets as they are."""

import dagster as dg

from captcha_assets.cli.orchestration.mermaid_graph import mermaid
from captcha_assets.definitions import defs
from captcha_assets_tests.conftest import REPOSITORY


def test_the_graph_in_the_readme_is_that_of_the_definitions() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    shown = readme.partition("```mermaid\n")[2].partition("```")[0]
    assert shown == mermaid(defs()), "put the output of `captcha-assets graph` into README.md"


def test_every_asset_is_a_box_of_its_group_and_every_input_an_arrow() -> None:
    @dg.asset(deps=["outside"], group_name="model", kinds={"onnx"})
    def inside() -> None: ...

    drawn = mermaid(dg.Definitions(assets=[inside, dg.AssetSpec("outside", group_name="source")]))
    assert '  inside["<b>inside</b><br>onnx"]:::model\n' in drawn
    assert '  outside["<b>outside</b><br>observed"]:::source\n' in drawn
    assert "  outside --> inside\n" in drawn
    assert "  class outside observed\n" in drawn
