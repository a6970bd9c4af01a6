"""compose.yaml follows its specification, and its parts fit the images and each other."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from captcha_assets.settings import load_settings
from captcha_assets_tests.deployment.containers import REPOSITORY

FILE = REPOSITORY / "compose.yaml"


@cache
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(FILE.read_text())["services"])


def follows_the_specification(path: Path) -> tuple[bool, str]:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.compose-spec", str(path)])
    return done.exit_code == 0, done.output


def test_the_file_follows_the_compose_specification(tmp_path: Path) -> None:
    passed, output = follows_the_specification(FILE)
    assert passed, output
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("depends_on:", "depend_on:"))
    assert not follows_the_specification(wrong)[0]


def test_every_image_of_the_repository_is_built_and_the_others_are_pinned() -> None:
    built = {one["build"]["dockerfile"] for one in services().values() if "build" in one}
    assert built == {f"dockerfiles/{path.name}" for path in REPOSITORY.glob("dockerfiles/*.Dockerfile")}
    ours = {one["image"] for one in services().values() if "build" in one}
    for name, one in services().items():
        if one["image"] not in ours:
            assert re.search(r":[\w.-]*\d", one["image"]), f"{name}: {one['image']} has no version"


def has_health_check(service: dict[str, Any]) -> bool:
    if "healthcheck" in service:
        return not service["healthcheck"].get("disable", False)
    name = service["image"].removeprefix("captcha-assets-")
    found = REPOSITORY / "dockerfiles" / f"{name}.Dockerfile"
    return found.is_file() and "HEALTHCHECK --interval" in found.read_text()


def test_every_service_has_a_health_check_but_the_one_that_ends() -> None:
    assert [name for name, one in services().items() if not has_health_check(one)] == ["setup"]


def test_a_service_waits_for_what_can_be_waited_for() -> None:
    for name, one in services().items():
        for other, waited in one.get("depends_on", {}).items():
            healthy = waited["condition"] == "service_healthy"
            assert has_health_check(services()[other]) == healthy, f"{name} waits for {other}"


def test_ours_have_no_privileges_and_only_this_machine_reaches_them() -> None:
    for name, one in services().items():
        if one["image"].startswith("captcha-assets"):
            assert one["cap_drop"] == ["ALL"], name
            assert one["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), name


@pytest.mark.parametrize("name", ["setup", "code-location", "webserver", "daemon", "monitoring", "backend"])
def test_the_settings_of_a_service_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in services()[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:\?.*?\}", "secret", value))
    settings = load_settings()
    assert settings.paths.profile == "shared"
    assert str(settings.staging_store) == "s3://captcha/artifacts/.ray"


def test_no_password_stands_in_the_file() -> None:
    secrets = [line for line in FILE.read_text().splitlines() if re.search(r"PASSWORD|SECRET", line)]
    assert secrets
    assert [line for line in secrets if "_PASSWORD:?set it in .env}" not in line] == []
