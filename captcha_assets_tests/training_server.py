"""Trainings that Dagster starts here are forked from a process that has their libraries: see `fork_server`.

A training by itself imports torch and Lightning for five seconds, which is longer than most trainings of the
tests take. Dagster starts `fork_client.py` in its place, a process that lives as long as the training: it
passes signals on and ends as the training does. Tests of the process itself start the real command.
"""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from captcha_assets.defs.compute import local_compute
from captcha_assets_tests import fork_server

#: The command of a training that is not forked.
REAL = local_compute.COMMAND

_CLIENT = Path(__file__).with_name("fork_client.py")


class _Command:
    """The command of a training here; the server is started when the first one is."""

    def __iter__(self) -> Iterator[str]:
        return iter((sys.executable, "-IS", str(_CLIENT), fork_server.address(__name__)))


def use() -> None:
    """Let the trainings of this process be forked."""
    local_compute.COMMAND = _Command()


def prepare() -> None:
    """Import what a training imports."""
    import captcha_assets.training.fit  # noqa: F401


def run(*arguments: str) -> None:
    """Be the training."""
    sys.argv = ["captcha_assets.training", *arguments]
    runpy.run_module("captcha_assets.training", run_name="__main__", alter_sys=True)
