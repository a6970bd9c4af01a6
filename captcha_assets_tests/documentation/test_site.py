"""The site: what pages take from the code is in them, and all of it builds without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets.cli import main
from captcha_assets.definitions import defs
from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.architecture.source import LAYERS
from captcha_assets_tests.documentation.pages import pages
from docs_pages.blocks import BLOCKS, filled, kept


def test_what_a_page_keeps_of_the_code_is_what_the_code_says() -> None:
    keeping = [page for page in pages() if kept(page.read_text())]
    assert [page.name for page in keeping] == ["settings.md"]
    old = [page.name for page in keeping if filled(page.read_text()) != page.read_text()]
    assert old == [], "run: make docs-pages"


def test_every_block_is_on_a_page_and_every_marker_has_a_block() -> None:
    named = {name for page in pages() for name in re.findall(r"<!-- generated: (.*?) -->", page.read_text())}
    assert named == set(BLOCKS)


def test_every_asset_has_a_section_with_its_checks() -> None:
    page = BLOCKS["assets"]()
    graph = defs().resolve_asset_graph()
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == {
        key.to_user_string() for key in graph.get_all_asset_keys()
    }
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    for key in graph.asset_check_keys:
        assert f"| `{key.name}` |" in sections[key.asset_key.to_user_string()]


def test_the_layers_on_the_page_are_those_that_a_test_holds() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text().partition("## The layers")[2]
    rows = [
        re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1]) for row in page.splitlines() if row[:3] == "| `"
    ]
    shown = [name for row in rows for name in row]
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert [layer[name] for name in shown] == sorted(layer[name] for name in shown)
    packages = {name for name in layer if (REPOSITORY / "captcha_assets" / name).is_dir()}
    assert packages - set(shown) == set()


def test_the_metrics_are_those_of_the_service() -> None:
    page = BLOCKS["metrics"]()
    assert (
        "| `captcha_requests_total` | counter | `route`, `status` | Requests by route and status. |" in page
    )
    assert "| `captcha_prediction_log_dropped_total` |" in page
    assert "| `captcha_model_info` | " in page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by the command of `make docs`."""
    target = tmp_path_factory.mktemp("site") / "site"
    recipe = re.search(r"^docs:.*\n\t@(.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    variable, _, *arguments = recipe[1].split()
    command = [sys.executable, *arguments, "--site-dir", str(target)]
    environment = os.environ | dict([variable.split("=")])
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert "--strict" in command
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return target


@pytest.mark.slow
def test_the_site_has_every_command_setting_and_class(site: Path) -> None:
    commands = (site / "reference" / "commands" / "index.html").read_text()
    assert [name for name in main.commands if f'id="captcha-assets-{name}"' not in commands] == []
    assert "CAPTCHA_SERVING_QUEUE_LENGTH" in (site / "settings" / "index.html").read_text()
    assert 'class="mermaid"' in (site / "architecture" / "index.html").read_text()


@pytest.mark.slow
def test_the_python_page_has_all_that_it_names(site: Path) -> None:
    page = (REPOSITORY / "docs" / "reference" / "python.md").read_text()
    named = re.findall(r"^::: ([\w.]+)\n    options:\n      members: \[(.*)\]$", page, re.MULTILINE)
    assert len(named) == page.count(":::")
    shown = (site / "reference" / "python" / "index.html").read_text()
    names = [f"{module}.{member}" for module, members in named for member in members.split(", ")]
    assert [name for name in names if f'id="{name}"' not in shown] == []
    assert 'id="captcha_assets.serving.client.PredictionClient.predict"' in shown


@pytest.mark.slow
def test_a_page_asks_no_other_host_but_for_the_graphs(site: Path) -> None:
    """Mermaid's own script is the only thing that is fetched, by the script of the theme."""
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert loaded == [], page


@pytest.mark.slow
def test_every_image_and_link_of_a_page_is_there(site: Path) -> None:
    """The build checks Markdown alone: what a page writes as HTML is found here."""
    lost = []
    for page in site.rglob("*.html"):
        for address in re.findall(r'(?:src|href)="([^"#:?]+)["#?]', page.read_text()):
            target = site / address.lstrip("/") if address.startswith("/") else page.parent / address
            lost += [] if target.exists() else [f"{page.relative_to(site)}: {address}"]
    assert lost == []
