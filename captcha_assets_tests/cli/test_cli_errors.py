"""What is around the command fails: each error is one line that says what is wrong, where, and what to do."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets.cli import errors
from captcha_assets_tests.commands import run, succeeded


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A home with one batch on a real file system that nothing can be written to."""
    home = tmp_path / "home"
    succeeded(home, "batch", "add", "one", "synthetic:40:1")
    for command in (["mount", "--bind", home, home], ["mount", "-o", "remount,ro,bind", home]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a read-only file system cannot be mounted here: {done.stderr.strip()}")
    yield home
    subprocess.run(["umount", home], check=True)


def rejected(home: Path, *arguments: str, **environment: str) -> str:
    """The one line that a command fails with."""
    done = run(home, *arguments, **environment)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("arguments", [("update",), ("status",), ("batch", "add", "two", "synthetic:9")])
def test_a_home_that_cannot_be_written_to_is_named(read_only: Path, arguments: tuple[str, ...]) -> None:
    line = rejected(read_only, *arguments)
    assert str(read_only) in line
    assert "Read-only file system" in line


def test_a_home_that_can_only_be_read_lists_its_batches(read_only: Path) -> None:
    assert "one" in succeeded(read_only, "batch", "list")


def test_a_disk_that_dagsters_database_fills_is_named(small_disk: Path) -> None:
    succeeded(small_disk, "batch", "add", "one", "synthetic:40:1")
    line = rejected(small_disk, "update", "--select", "key:raw_batch")
    assert f"Dagster's database in {small_disk}/.dagster: database or disk is full; free some space" in line


def test_a_damaged_database_of_dagster_is_named(tmp_path: Path) -> None:
    succeeded(tmp_path, "status")
    (tmp_path / ".dagster" / "history" / "runs.db").write_bytes(b"garbage" * 1000)
    line = rejected(tmp_path, "status")
    assert f"Dagster's database in {tmp_path}/.dagster/history/runs.db: file is not a database" in line
    assert "move it away if it is damaged" in line


def test_settings_of_dagster_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / ".dagster").mkdir()
    (tmp_path / ".dagster" / "dagster.yaml").write_text("{{")
    assert "dagster.yaml" in rejected(tmp_path, "status")
    (tmp_path / ".dagster" / "dagster.yaml").write_text("no_such_setting: 1\n")
    assert "no_such_setting" in rejected(tmp_path, "status")


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("batch", "list"),
        ("batch", "add", "one", "synthetic:3"),
        ("model", "list"),
        ("model", "history"),
        ("sweep", "show"),
        ("automation", "show"),
        ("lineage", "champion"),
        ("update",),
        ("update", "--dry-run"),
        ("backup", "create", "/tmp/never-written.zip"),
        ("serve",),
    ],
)
def test_a_bucket_that_does_not_exist_is_named(
    tmp_path: Path, object_store: dict[str, str], arguments: tuple[str, ...]
) -> None:
    line = rejected(tmp_path, *arguments, CAPTCHA_ARTIFACTS="s3://no-such-bucket/here", **object_store)
    assert line == (
        "Error: the bucket s3://no-such-bucket does not exist: create it (aws s3 mb s3://no-such-bucket), or "
        "correct the address"
    )


def test_a_bucket_without_anything_is_a_new_home(tmp_path: Path, bucket: UPath) -> None:
    said = succeeded(tmp_path, "status", CAPTCHA_ARTIFACTS=f"s3://{bucket.path.strip('/')}/here")
    assert "first    there is no batch yet" in said


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("batch", "list"), ("update",)])
def test_an_object_store_that_does_not_answer_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        line = rejected(
            tmp_path,
            *arguments,
            CAPTCHA_ARTIFACTS="s3://bucket/here",
            AWS_ENDPOINT_URL=address,
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
        )
    assert line.startswith("Error: the object store: Could not connect to the endpoint URL")
    assert address in line
    assert "check CAPTCHA_ARTIFACTS" in line


def test_an_object_store_that_denies_access_is_named() -> None:
    assert errors.in_one_line(PermissionError("Access Denied")).startswith(
        "the object store: Access Denied; check CAPTCHA_ARTIFACTS, the credentials"
    )


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EREMOTEIO])
def test_an_object_store_that_is_unavailable_is_named(number: int) -> None:
    assert errors.in_one_line(OSError(number, "Service Unavailable")).startswith(
        "the object store: Service Unavailable; check CAPTCHA_ARTIFACTS, the credentials"
    )


def test_what_an_error_says_is_not_said_twice() -> None:
    known = OSError(
        errno.ENOSPC, "no space left on the disk or in the quota: free some and run it again", "/a"
    )
    assert errors.in_one_line(known).count("run it again") == 1
    assert errors.in_one_line(OSError(errno.ENOSPC, "No space left", "/a")).endswith(
        "; free some space and run it again"
    )


def test_debugging_shows_the_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "batch", "remove", "Bad Name", CAPTCHA_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_every_library_whose_errors_are_named_has_them() -> None:
    """A library may rename its errors: then nothing of it would be known any more."""
    import importlib

    for kind in errors._KINDS:
        assert issubclass(getattr(importlib.import_module(kind.module), kind.name), Exception)


def test_a_defect_is_one_line_that_says_how_to_see_more() -> None:
    line = errors.unexpected(KeyError("who\nknows"))
    assert line.startswith("unexpected error: KeyError: 'who")
    assert "CAPTCHA_DEBUG=1" in line
    assert len(line.splitlines()) == 1
