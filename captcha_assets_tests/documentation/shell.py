"""Blocks of commands of a page, run as a reader types them."""

import os
import subprocess
import sys
from pathlib import Path


def run(script: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run commands in a shell up to the first that fails; what they print is all in `stdout`.

    Args:
        script: the commands.
        folder: where they are run.
        variables: of the environment, beside those of the tests.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"COLUMNS": "110", "PATH": path} | variables
    for name in ("CAPTCHA_HOME", "DAGSTER_HOME"):
        if name not in variables:
            environment.pop(name, None)
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
