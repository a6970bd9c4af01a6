"""The report server over HTTP: its start page leads to every report, and nothing else leaves the home."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest
from upath import UPath

from captcha_assets import start_page
from captcha_assets.models import overview, registry
from captcha_assets.paths import Paths
from captcha_assets.quality import report, validation_result
from captcha_assets.reports import serving
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets_tests.models.conftest import make_model
from captcha_assets_tests.quality.stored_results import stored, validated


def settings_of(home: Path, artifacts: str | None = None) -> Settings:
    """A home whose reports are served at a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return Settings(paths=Paths(home=home, artifacts=artifacts), reports_url=f"http://localhost:{port}")


def ask(settings: Settings, address: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    """Ask as an attacker can: the address is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(settings.reports_url).port or 0, timeout=20)
    connection.putrequest(method, address, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def fill(settings: Settings, work: Path) -> str:
    """Leave what a platform leaves: two batches, one of them quarantined, and a champion."""
    for name, passed in (("october", True), ("mostly-bad", False)):
        batch_registration.register(settings, name, batch_registration.parse_source("synthetic:10:1"))
        found = validated(stored("share_of_rejects", success=passed), subject=f"image_table/{name}")
        validation_result.save(
            found, report.page(found), settings.paths.validation_results("image_table", name)
        )
        if passed:
            drift = validated(stored("drift", severity="warning"), subject=f"drift/{name}")
            validation_result.save(
                drift, report.page(drift), settings.paths.validation_results("drift", name)
            )
            for table in ("image_index", "splits"):
                whole = replace(found, subject=table)
                validation_result.save(whole, report.page(whole), settings.paths.validation_results(table))
    (settings.paths.validation_results("image_table") / "index.html").write_text("<h1>history</h1>")
    make_model(work / "model")
    model_id = registry.add_candidate(settings.paths.models, work / "model")
    registry.promote(settings.paths.models, model_id, "the first")
    settings.paths.evaluation(model_id).mkdir(parents=True)
    (settings.paths.evaluation(model_id) / "report.html").write_text("<h1>evaluation</h1>")
    return model_id


@pytest.fixture(params=["folder", "object store"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A server over the reports of a platform, whose artifacts lie in a folder or on an object store."""
    store: UPath | None = request.getfixturevalue("bucket") if request.param == "object store" else None
    settings = settings_of(tmp_path / "home", f"{str(store).rstrip('/')}/artifacts" if store else None)
    fill(settings, tmp_path)
    with serving(settings):
        yield settings


def test_the_start_page_leads_to_conflicts_when_there_are_some(served: Settings) -> None:
    conflicts = served.paths.label_conflicts
    conflicts.write_text("image_id,labels\n")
    assert "label_conflicts.csv" not in ask(served, "/")[1]
    conflicts.write_text("image_id,labels\n0a1b,a;b\n")
    assert "label_conflicts.csv" in ask(served, "/")[1]
    assert ask(served, "/label_conflicts.csv")[0] == 200


def test_the_start_page_leads_to_every_report_and_names_a_quarantined_batch(served: Settings) -> None:
    status, page, headers = ask(served, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.search(r"mostly-bad.*?badge failed.*?quarantined", page, re.DOTALL)
    warned = r'october.*?badge warning">passed, 1 warning<'  # of its drift; the history says the same
    assert re.search(warned, page, re.DOTALL)
    history = report.publish_history(served.paths, ["october", "mostly-bad"]).read_text()
    assert re.search(warned, history, re.DOTALL)
    links = re.findall(r'href="([^":]+)"', page)
    (model_id,) = registry.list_models(served.paths.models)
    wanted = {
        "quality/image_table/index.html",
        "quality/image_table/october/report.html",
        "quality/image_table/mostly-bad/report.html",
        "quality/drift/october/report.html",
        "quality/image_index/report.html",
        "quality/splits/report.html",
        f"evaluation/{model_id}/report.html",
    }
    assert set(links) == wanted
    for link in [*links, "favicon.ico"]:  # which every browser asks for
        assert ask(served, f"/{link}")[0] == 200, link


def test_the_start_page_says_which_command_starts_the_ui_that_it_leads_to(served: Settings) -> None:
    page = ask(served, "/")[1]
    assert (
        f'<a href="{served.ui_url}">the Dagster UI</a>, while it runs (<code>captcha-assets ui</code>' in page
    )


def test_a_head_request_is_answered_as_a_get_without_the_body(served: Settings) -> None:
    for address in ("/", "/quality/splits/report.html"):
        status, body, headers = ask(served, address, "HEAD")
        assert (status, body) == (200, "")
        assert headers["Content-Length"] == ask(served, address)[2]["Content-Length"]


def test_an_unknown_address_is_a_404_that_names_the_start_page(served: Settings) -> None:
    for address in ("/nothing.html", "/quality", "/%00.html", f"/{'x' * 3000}.html", "/models/%ff.html"):
        status, body, _ = ask(served, address)
        assert status == 404, address
        assert '<a href="/">The start page</a> leads to every report' in body


def test_no_file_outside_of_the_artifacts_is_served(served: Settings, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("hush")
    served.paths.home.mkdir(exist_ok=True)
    (served.paths.home / "secret.json").write_text("hush")
    addresses = [
        "/../secret.json",
        "/quality/../../secret.json",
        "/%2e%2e/secret.json",
        "/..%2fsecret.json",
        "/quality/%2e%2e%2f%2e%2e%2fsecret.json",
        f"/{secret}",
        f"//{str(secret).replace('/', '%2f')}",
    ]
    if isinstance(served.paths.artifact_root, Path):
        quality = served.paths.artifact_root / "quality"
        quality.mkdir(parents=True, exist_ok=True)
        (quality / "link.json").symlink_to(secret)
        (quality / "folder").symlink_to(tmp_path)
        addresses += ["/quality/link.json", "/quality/folder/secret.json"]
    for address in addresses:
        status, body, _ = ask(served, address)
        assert status in (400, 404), address
        assert "hush" not in body


def test_what_is_no_report_is_not_served(served: Settings) -> None:
    for path in (served.paths.registrations / "one.json", served.paths.models / "champion.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hush")
        status, body, _ = ask(served, served.public_url(path).removeprefix(served.reports_url))
        assert status == 404
        assert "hush" not in body


def test_a_page_of_another_host_gets_no_report(served: Settings) -> None:
    port = urlsplit(served.reports_url).port
    for host, expected in ((f"localhost:{port}", 200), ("127.0.0.1", 200), ("evil.example", 421), ("[", 421)):
        connection = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=20)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == expected, host
        connection.close()


def test_the_start_page_of_an_empty_home_says_how_to_begin(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    with serving(settings):
        status, page, _ = ask(settings, "/")
    assert status == 200
    assert "captcha-assets batch add NAME SOURCE" in page


def test_the_start_page_shows_what_it_can_where_a_record_is_damaged(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    model_id = fill(settings, tmp_path)
    (settings.paths.validation_results("image_table", "october") / "validation_result.json").write_text(
        "garbage"
    )
    (settings.paths.evaluation(model_id) / "metrics.json").write_text("[]")
    with serving(settings):
        status, page, _ = ask(settings, "/")
    assert status == 200
    assert page.count("cannot be read") == 2


def test_the_start_page_shows_the_champion_in_green_and_no_other_model(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    champion = fill(settings, tmp_path)
    make_model(tmp_path / "other", seed=1)
    candidate = registry.add_candidate(settings.paths.models, tmp_path / "other")

    def badges() -> list[tuple[str, str]]:
        page = start_page.page(settings)
        return re.findall(r'badge (\w+)">((?:candidate|champion)[^<]*)<', page)

    assert champion != candidate
    assert badges() == [("passed", "champion")], "the candidate was not compared yet"
    registry.refuse(settings.paths.models, candidate, "by a person")
    assert sorted(badges()) == [("passed", "champion"), ("warning", "candidate, not promoted")]
    registry.promote(settings.paths.models, candidate, "a try", by="human")
    registry.rollback(settings.paths.models, "it reads nothing")
    assert sorted(badges()) == [("passed", "champion"), ("warning", "candidate, served before")]


def test_figures_of_unlike_test_splits_are_not_left_to_be_compared(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    champion = fill(settings, tmp_path)
    make_model(tmp_path / "other", seed=1)
    other = registry.add_candidate(settings.paths.models, tmp_path / "other")

    def page(*sizes: int) -> str:
        for model_id, size in zip((champion, other), sizes, strict=True):
            settings.paths.evaluation(model_id).mkdir(exist_ok=True)
            figures = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "n": size}
            (settings.paths.evaluation(model_id) / "metrics.json").write_text(json.dumps(figures))
        return start_page.page(settings)

    assert "compare only figures of the same number of images" in page(431, 560)
    assert "The test split changed" not in page(560, 560)
    pl.DataFrame({"split": ["test"] * 560}).write_parquet(str(settings.paths.splits))
    assert page(431, 560)
    shown = overview.show_model(settings, "champion")
    assert shown["role"] == "champion"
    assert shown["test accuracy (95 %)"].endswith("; on an earlier test split of 431 images, today's has 560")
    assert overview.show_model(settings, other)["test accuracy (95 %)"].endswith("n = 560)")


def test_every_column_of_the_start_page_has_a_name(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    fill(settings, tmp_path)
    columns = re.findall(r"<th>(.*?)</th>", start_page.page(settings))
    assert "report" in columns
    assert all(columns)


def test_the_start_page_leads_to_the_drift_of_each_day(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    for day, content in (("2026-11-27", '{"severity": "critical"}'), ("2026-11-28", "no JSON")):
        folder = Path(settings.paths.drift_report(day))
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("page")
        (folder / "drift.json").write_text(content)
    with serving(settings):
        page = ask(settings, "/")[1]
        assert ask(settings, "/drift_report/2026-11-27/report.html")[:2] == (200, "page")
    assert page.index("2026-11-28") < page.index("cannot be read") < page.index("2026-11-27")
    assert "critical" in page
    assert "drift_report/2026-11-27/report.html" in page


def test_another_address_and_port_can_be_listened_on(tmp_path: Path) -> None:
    settings, other = settings_of(tmp_path / "home"), settings_of(tmp_path / "home")
    port = urlsplit(other.reports_url).port
    with serving(settings, "0.0.0.0", port):
        assert ask(other, "/")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            ask(settings, "/")
