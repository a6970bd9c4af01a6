"""The cloud build and the workflows follow their schemas, build every image, and have few rights."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from captcha_assets_tests.deployment.containers import REPOSITORY

CLOUD_BUILD = REPOSITORY / "cloudbuild.yaml"
GITHUB = REPOSITORY / ".github"
WORKFLOW = GITHUB / "workflows" / "images.yaml"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yaml"))
IMAGES = sorted(path.stem for path in REPOSITORY.glob("dockerfiles/*.Dockerfile"))


def jobs(workflow: Path = WORKFLOW) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(workflow.read_text())["jobs"])


@pytest.mark.parametrize(
    ("path", "schema", "field"),
    [
        (CLOUD_BUILD, "vendor.cloudbuild", "steps:"),
        (GITHUB / "dependabot.yml", "vendor.dependabot", "schedule:"),
        *((workflow, "vendor.github-workflows", "runs-on:") for workflow in WORKFLOWS),
    ],
)
def test_a_file_follows_its_schema(path: Path, schema: str, field: str, tmp_path: Path) -> None:
    def check(file: Path) -> tuple[int, str]:
        done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, str(file)])
        return done.exit_code, done.output

    assert check(path)[0] == 0, check(path)[1]
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace(field, f"no-{field}"))
    assert check(wrong)[0] != 0


def test_both_build_every_image() -> None:
    built = yaml.safe_load(CLOUD_BUILD.read_text())["substitutions"]["_IMAGES"]
    assert sorted(built.split()) == IMAGES
    for name in ("build", "publish"):
        assert jobs()[name]["strategy"]["matrix"]["image"] == IMAGES


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_the_hash_of_a_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", workflow.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"  # v\d+\.\d+\.\d+", comment), f"{action} does not say its version"


def test_an_action_has_one_version_everywhere() -> None:
    used = {one for path in WORKFLOWS for one in re.findall(r"uses: (\S+)@(\S+)", path.read_text())}
    assert len(used) == len({action for action, _ in used})


RIGHTS = {
    "data-report": {"report": {"contents": "read", "pull-requests": "write"}},
    "dependencies": {"lock": {"contents": "write", "pull-requests": "write"}},
    "docs": {"build": {"contents": "read"}, "publish": {"pages": "write", "id-token": "write"}},
    "images": {
        "manifests": {"contents": "read"},
        "build": {"contents": "read"},
        "publish": {"contents": "read", "packages": "write", "id-token": "write"},
    },
    "model": {"test": {"contents": "read"}},
    "tests": {"tests": {"contents": "read"}, "hooks": {"contents": "read"}},
}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_only_do_what_it_needs(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}
    found = {name: one["permissions"] for name, one in jobs(workflow).items()}
    assert found == RIGHTS[workflow.stem]
    for one in jobs(workflow).values():
        for step in one["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_images_are_only_published_for_a_tag() -> None:
    assert jobs()["publish"]["if"] == "github.event_name == 'push'"
    assert yaml.safe_load(WORKFLOW.read_text())[True]["push"] == {"tags": ["v*"]}


def test_what_hooks_and_workflows_run_is_there() -> None:
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    named = re.findall(r"captcha_assets_tests/\S+\.py", hooks)
    assert named
    for file in named:
        assert (REPOSITORY / file).exists(), file
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for workflow in WORKFLOWS:
        for target in re.findall(r"run: make ([a-z-]+)", workflow.read_text()):
            assert target in targets, target


def test_an_image_is_scanned_before_it_is_pushed_and_signed_after() -> None:
    steps = [str(step) for step in jobs()["publish"]["steps"]]
    places = [
        next(number for number, step in enumerate(steps) if part in step)
        for part in ("trivy-action", "'push': True", "cosign sign")
    ]
    assert places == sorted(places)
    assert "'exit-code': '1'" in steps[places[0]]
    order = [step["id"] for step in yaml.safe_load(CLOUD_BUILD.read_text())["steps"]]
    assert order == ["build", "scan", "push", "sign"]


def test_the_documentation_is_published_from_main_by_a_job_that_builds_nothing() -> None:
    workflow = GITHUB / "workflows" / "docs.yaml"
    assert yaml.safe_load(workflow.read_text())[True]["push"] == {"branches": ["main"]}
    publish = jobs(workflow)["publish"]
    assert publish["if"] == "github.event_name == 'push'"
    assert [step.get("run") for step in publish["steps"]] == [None]
