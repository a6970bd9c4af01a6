"""What the tutorial shows of batches, good and bad, is what its commands print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.commands import succeeded

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text()
SECTIONS = dict(re.findall(r"^## \d\. ([^\n]+)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))


def steps(section: str) -> list[tuple[str, str]]:
    """Return each block of commands of a section with what stands below it as their output."""
    found = re.findall(r"```console\n(.*?)```(?:\n\n```text\n(.*?)```)?", SECTIONS[section], re.DOTALL)
    return [(commands, output) for commands, output in found]


def missing(shown: str, printed: str) -> list[str]:
    """Return the lines that are shown and were not printed; ... stands for anything."""
    lines = {line.rstrip() for line in printed.splitlines()}
    return [
        line
        for line in shown.splitlines()
        if line.strip(" .") and not any(re.fullmatch(_pattern(line), one) for one in lines)
    ]


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("..."))


@pytest.mark.slow
def test_the_commands_about_batches_print_what_is_shown(tmp_path: Path) -> None:
    home = tmp_path / "tutorial"
    succeeded(home, "batch", "add", "starter", "synthetic:3000:1")
    succeeded(home, "update", "--select", "+key:splits")

    def run(commands: str) -> str:
        environment = os.environ | {
            "CAPTCHA_HOME": str(home),
            "COLUMNS": "110",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        environment.pop("DAGSTER_HOME", None)
        script = commands.replace("/tmp/", f"{tmp_path}/")
        done = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        return (done.stdout + done.stderr).replace(f"{tmp_path}/", "/tmp/")

    (register, would), *rest = [*steps("Add a batch"), *steps("Add a bad batch")]
    assert missing("\n".join(would.splitlines()[:6]), run(register)) == []  # no model depends on it here
    for commands, shown in rest:
        assert shown
        assert missing(shown, run(commands)) == []


@pytest.mark.parametrize(
    ("shown", "printed", "left"),
    [
        ("a\n...\nb ... d\n", "a\nx\nb c d\n", []),
        ("a b\n", "a c\n", ["a b"]),
        ("a ... c\n", "a b\n", ["a ... c"]),
    ],
)
def test_a_line_that_was_not_printed_is_noticed(shown: str, printed: str, left: list[str]) -> None:
    assert missing(shown, printed) == left
