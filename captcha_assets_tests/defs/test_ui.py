"""The web UI in a real browser, over a home in which every asset is materialized."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def ui(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a webserver over a copy of the finished home."""
    home = tmp_path_factory.mktemp("ui") / "home"
    shutil.copytree(finished_folder, home, symlinks=True)
    with webserver(home) as address:
        yield address


@contextmanager
def webserver(home: Path) -> Iterator[str]:
    """Run a webserver over a home; its address."""
    port = free_port()
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [str(program), "-m", "captcha_assets.definitions", "-h", "127.0.0.1", "-p", str(port)]
    environment = {
        **os.environ,
        "CAPTCHA_HOME": str(home),
        "DAGSTER_HOME": str(home / ".dagster"),
    }
    log = (home.parent / "webserver.log").open("wb")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _attempt in range(600):
        assert server.poll() is None, "the webserver ended"
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=2)
        except OSError:
            time.sleep(0.2)
        else:
            if is_loaded(address):
                return
    pytest.fail("the webserver does not answer")


def is_loaded(address: str) -> bool:
    """Whether the webserver has loaded the code location; it answers before, and then knows no asset."""
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        loadStatus locationOrLoadError { ... on PythonError { message } } } } } }"""
    entries = ask(address, query)["workspaceOrError"]["locationEntries"]
    for entry in entries:
        assert "message" not in (entry["locationOrLoadError"] or {}), entry
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def answered(address: str, query: str) -> Any:
    """What the webserver answers to a question of the UI: `data`, and `errors` where there are any."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=60))
    except urllib.error.HTTPError as error:
        return json.load(error)


def ask(address: str, query: str) -> Any:
    answer = answered(address, query)
    assert "errors" not in answer, answer
    return answer["data"]


@pytest.fixture
def page(ui: str) -> Iterator[Any]:
    """A page of a headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def staleness(address: str, partitioned: bool) -> dict[str, object]:
    """What the UI says of each materializable asset: its status, or that of each of its partitions."""
    nodes = ask(address, "{ assetNodes { assetKey { path } isMaterializable isPartitioned } }")["assetNodes"]
    keys = [
        n["assetKey"]["path"] for n in nodes if n["isMaterializable"] and n["isPartitioned"] == partitioned
    ]
    wanted = ", ".join(f'{{path: ["{path[0]}"]}}' for path in keys)
    field = "staleStatusByPartition" if partitioned else "staleStatus"
    answer = ask(address, f"{{ assetNodes(assetKeys: [{wanted}]) {{ assetKey {{ path }} {field} }} }}")
    return {node["assetKey"]["path"][0]: node[field] for node in answer["assetNodes"]}


def test_the_ui_calls_nothing_stale_after_an_update(ui: str) -> None:
    whole, parted = staleness(ui, partitioned=False), staleness(ui, partitioned=True)
    assert len(whole) >= 7
    assert (whole.pop("sweep_leaderboard"), parted.pop("sweep_trial")) == ("MISSING", []), "on demand only"
    assert whole.pop("quantized_model") == "MISSING", "on demand only"
    assert set(whole.values()) == {"FRESH"}
    no_day_was_served: dict[str, list[str]] = {"prediction_log": [], "corrections": [], "drift_report": []}
    by_batch = {key: ["FRESH"] for key in ("raw_batch", "image_table", "rejected_images")}
    assert parted == by_batch | no_day_was_served


def test_the_asset_graph_shows_every_group(ui: str, page: Any) -> None:
    page.goto(f"{ui}/asset-groups?expanded=captcha_assets:source,captcha_assets:images")
    for group in ("source", "images", "dataset", "model"):
        name = page.get_by_text(group, exact=True).first
        name.wait_for()
        assert name.is_visible()


def test_the_plots_of_the_evaluation_are_visible(ui: str, page: Any) -> None:
    page.goto(f"{ui}/assets/evaluation?view=events")
    row = page.locator("tr", has_text="confusion matrix")
    row.get_by_text(re.compile("Show Markdown")).first.click()
    image = page.locator("img[alt=confusion_matrix]")
    image.wait_for()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 300


def test_a_check_says_what_was_expected_and_found(ui: str, page: Any) -> None:
    page.goto(f"{ui}/assets/splits?view=checks")
    page.get_by_text("no_group_in_two_splits").first.click()
    page.get_by_text("expected").first.wait_for()
