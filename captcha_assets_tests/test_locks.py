"""A lock by name excludes every other process of a home, on one machine and on a real PostgreSQL server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from captcha_assets import locks
from captcha_assets.paths import Paths
from captcha_assets_tests.serving.conftest import postgres

__all__ = ["postgres"]

#: A process that takes a lock, says so, and keeps it until its input ends.
TAKING = """
import sys
from captcha_assets import locks
from captcha_assets.paths import Paths

with locks.exclusive(Paths(), sys.argv[1], lambda: print("waiting", flush=True)):
    print("taken", flush=True)
    sys.stdin.read()
"""

Variables = dict[str, str]


@pytest.fixture(params=["local", pytest.param("shared", marks=pytest.mark.xdist_group("postgres"))])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Variables]:
    """The environment of a process, which on a shared database has a home of its own."""
    if request.param == "local":
        return lambda _: {"CAPTCHA_HOME": str(tmp_path)}
    shared = {
        "CAPTCHA_PROFILE": "shared",
        "CAPTCHA_DATABASE": str(request.getfixturevalue("postgres")()),
        "CAPTCHA_ARTIFACTS": "s3://bucket/artifacts",
    }
    return lambda host: shared | {"CAPTCHA_HOME": str(tmp_path / host)}


def taking(name: str, variables: Variables) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TAKING, name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | variables, **pipes)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_lock_is_held_by_one_process_and_free_when_that_is_killed(
    variables: Callable[[str], Variables],
) -> None:
    first = taking("splits", variables("one"))
    assert said(first) == "taken"
    second = taking("splits", variables("other"))
    assert said(second) == "waiting"
    other_name = taking("batch", variables("other"))
    assert said(other_name) == "taken"
    first.kill()
    assert said(second) == "taken"
    for process in (second, other_name):
        process.communicate("")
        assert process.returncode == 0
    first.communicate()


def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(tmp_path: Path) -> None:
    address = "postgresql://me:hunter2@127.0.0.1:1/captcha"
    paths = Paths(home=tmp_path, profile="shared", database=address, artifacts="s3://bucket/artifacts")
    with pytest.raises(locks.DatabaseError) as caught, locks.exclusive(paths, "splits"):
        pass
    message = str(caught.value)
    assert message.startswith("the database of CAPTCHA_DATABASE cannot be reached: ")
    assert message.endswith("; check the address, and that the server runs")
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.xdist_group("postgres")
def test_a_database_that_the_server_does_not_know_is_said_with_the_servers_word(
    postgres: Callable[[], str], tmp_path: Path
) -> None:
    address = make_url(postgres()).set(database="nowhere").render_as_string(hide_password=False)
    paths = Paths(home=tmp_path, profile="shared", database=address, artifacts="s3://bucket/artifacts")
    with pytest.raises(locks.DatabaseError) as caught, locks.exclusive(paths, "splits"):
        pass
    message = str(caught.value)
    assert message.startswith("the server of CAPTCHA_DATABASE refuses the connection: ")
    assert 'database "nowhere" does not exist' in message
    assert "\n" not in message


def test_a_pipe_in_the_place_of_a_lock_is_waited_for_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    os.mkfifo(tmp_path / "locks" / "one.lock")
    with locks.locked_file(tmp_path, "one"):
        assert (tmp_path / "locks" / "one.lock").is_fifo()
