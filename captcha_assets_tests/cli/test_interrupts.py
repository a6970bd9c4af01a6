"""Ctrl-C is never lost, and never shown as a traceback."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets_tests.commands import succeeded

HARNESS = [sys.executable, "-m", "captcha_assets_tests.interrupts"]

#: A command in which an interrupt is swallowed, as by a finalizer or a library.
SWALLOWING = """
import os, signal, sys
from captcha_assets.cli import main
from captcha_assets.cli.orchestration import execution

materialize = execution.materialize

def interrupted_after(*arguments):
    result = materialize(*arguments)
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
    Finalized()
    return result

execution.materialize = interrupted_after
sys.argv = ["captcha-assets", *sys.argv[1:]]
main()
"""

#: A module that Python imports first: it interrupts the process when a library is looked for.
INTERRUPTING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {library!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def interrupted_randomly(tmp_path: Path, number: int) -> dict[str, dict[str, int]]:
    done = subprocess.run([*HARNESS, str(number)], capture_output=True, text=True, check=False, cwd=tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.timeout(1200)
def test_of_interrupts_at_random_moments_none_is_lost(tmp_path: Path) -> None:
    for found in interrupted_randomly(tmp_path, 5).values():
        assert found.pop("noticed") == 5
        assert set(found) <= {"too late"}


@pytest.mark.slow
def test_an_interrupt_that_a_finalizer_swallows_stops_before_the_next_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        succeeded(tmp_path, "batch", "add", name, "synthetic:40:3")
    command = [sys.executable, "-c", SWALLOWING, "update", "--select", "key:raw_batch"]
    done = subprocess.run(command, env=_environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: interrupted after 1 were materialized")
    assert not (tmp_path / "data" / "raw" / "two.zip").exists()


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "CAPTCHA_HOME": str(home)}


CONTINUES = "interrupted after 0 were materialized; the same command continues from there"


@pytest.mark.parametrize(
    ("library", "words"),
    [("click", "interrupted"), ("pydantic_settings", "interrupted"), ("dagster", CONTINUES)],
)
def test_an_interrupt_while_libraries_are_imported_is_one_line(
    tmp_path: Path, library: str, words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING.format(library=library))
    (tmp_path / "home").mkdir()
    command = [str(Path(sys.executable).with_name("captcha-assets")), "update"]
    variables = _environment(tmp_path / "home") | {
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    }
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {words}\n")


def test_an_interrupt_while_a_command_waits_for_another_one_ends_it(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "one", "synthetic:40:3")
    succeeded(tmp_path, "status")
    command = [str(Path(sys.executable).with_name("captcha-assets")), "update"]
    with (tmp_path / ".scratch" / "locks" / "_materializing.lock").open("w") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert process.stdout.readline() == "waiting for another command that materializes in this home\n"
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("Error: interrupted after 0 were materialized")
