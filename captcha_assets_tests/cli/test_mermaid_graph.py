"""The asset graph as text shows the assets as they are."""

from pathlib import Path

import dagster as dg

from captcha_assets.cli.orchestration.mermaid_graph import mermaid
from captcha_assets_tests.commands import succeeded
from docs_pages.blocks import BLOCKS


def test_the_command_prints_the_graph_of_the_architecture_page(tmp_path: Path) -> None:
    assert BLOCKS["asset-graph"]() == f"```mermaid\n{succeeded(tmp_path, 'graph')}```\n"


def test_every_asset_is_a_box_of_its_group_and_every_input_an_arrow() -> None:
    @dg.asset(deps=["outside"], group_name="model", kinds={"onnx"})
    def inside() -> None: ...

    drawn = mermaid(dg.Definitions(assets=[inside, dg.AssetSpec("outside", group_name="source")]))
    assert '  inside["<b>inside</b><br>onnx"]:::model\n' in drawn
    assert '  outside["<b>outside</b><br>observed"]:::source\n' in drawn
    assert "  outside --> inside\n" in drawn
    assert "  class outside observed\n" in drawn
