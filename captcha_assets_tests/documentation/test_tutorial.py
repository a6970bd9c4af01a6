"""The tutorial, followed word for word: what its commands print is what the page shows."""

import re
from pathlib import Path

import pytest

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.documentation.shell import run
from captcha_assets_tests.serving.services import running

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text()
SECTIONS = dict(re.findall(r"^## \d\. ([^\n]+)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
MAKEFILE = (REPOSITORY / "Makefile").read_text()

#: What differs between machines and days: ids, hashes, times, figures, what a model confuses.
_DIFFERS = re.compile(
    r"resnet18-[0-9a-f]{12}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=run )[0-9a-f]{8}|[0-9a-f]{32,64}"
    r"|\d{4}-\d\d-\d\d[ T][\d:+]+|\d+\.\d+|\d+ images/s|(?<=png  )\w|(?<=label: )\w"
)


def steps(section: str) -> list[tuple[str, str]]:
    """Return each block of commands of a section with the block below it that shows what they print."""
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
    return ".*".join(_with_any(part) for part in line.rstrip().split("..."))


def _with_any(text: str) -> str:
    """Return a pattern that is the text, with anything of the same kind in place of what differs."""
    return f"(?:{_DIFFERS.pattern})".join(re.escape(part) for part in _DIFFERS.split(text))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_goes_as_it_is_written(tmp_path: Path) -> None:
    home = tmp_path / "tutorial"

    def typed(commands: str, url: str = "") -> str:
        script = commands.replace("/tmp/", f"{tmp_path}/").replace("http://localhost:8000", url)
        return plain(run(f"set +e\n{script}", REPOSITORY, CAPTCHA_HOME=str(home)).stdout)

    def plain(printed: str) -> str:
        return printed.replace(f"{tmp_path}/", "/tmp/")

    made = "".join(
        f".venv/bin/captcha-assets {command}\n{succeeded(home, *command.split())}" for command in _demo()
    )
    shown = SECTIONS["Make a model"].partition("```text\n")[2].partition("```")[0]
    assert missing(shown.partition("...\n")[2], plain(made)) == []
    for section in ("See what was made", "Add a batch", "Add a bad batch", "Ask the model"):
        for commands, shown in steps(section):
            if commands != "captcha-assets reports\n":  # it does not end; a test of its own asks the pages
                assert missing(shown, typed(commands)) == [], commands
    *_, (corrects, shown) = steps("Serve it, and correct it")
    with running(home) as service:
        assert missing(shown, typed(corrects, service.url)) == []
    ((clean, _),) = steps("Clean up")
    assert typed(clean) == ""
    assert not home.exists()


def _demo() -> list[str]:
    """The commands of `make demo`."""
    recipe = MAKEFILE.partition("\ndemo:")[2].partition("\n\n")[0]
    return re.findall(r"^\t@?\$\(BIN\)/captcha-assets (.*)$", recipe, re.MULTILINE)


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
