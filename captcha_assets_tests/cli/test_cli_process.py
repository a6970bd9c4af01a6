"""How the command ends: help, usage errors, closed pipes, signals; never with a traceback."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets_tests.commands import run, succeeded

COMMAND = str(Path(sys.executable).with_name("captcha-assets"))

#: Runs each line of its input as a command, each in a process of its own that has its imports behind it.
MANY = """
import os, shlex, sys
from captcha_assets.cli import main

for line in sys.stdin.read().splitlines():
    sys.stdout.flush()
    process = os.fork()
    if process:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(f"= {status}", flush=True)
        continue
    os.dup2(1, 2)
    sys.argv = ["captcha-assets", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
"""


def commands(group: click.Group = main, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the tree, with the words that name it; hidden ones too."""
    yield before, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


def ended(home: Path, lines: list[list[str]]) -> list[tuple[int, str]]:
    """The exit status and the words of each of the command lines."""
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        input="\n".join(map(shlex.join, lines)),
        env={**os.environ, "CAPTCHA_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    found, said = [], ""
    for line in done.stdout.splitlines():
        if line.startswith("= "):
            found.append((int(line.removeprefix("= ")), said))
            said = ""
        else:
            said += line + "\n"
    assert len(found) == len(lines), done.stderr + done.stdout
    return found


def test_every_command_of_the_tree_is_found() -> None:
    found = {" ".join(words) for words, _command in commands()}
    assert {"", "update", "batch add", "model rollback", "sweep run", "sweep trial", "ui"} <= found


def test_no_line_of_a_help_text_is_cut_at_80_columns_and_every_option_is_explained() -> None:
    for words, command in commands():
        done = CliRunner().invoke(main, [*words, "--help"], terminal_width=80)
        cut = [line for line in done.output.splitlines()[1:] if line.endswith("...")]
        assert (words, cut) == (words, [])
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert (words, [one.name for one in options if not one.help]) == (words, [])


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_prints_its_help_once_and_succeeds(tmp_path: Path, option: str) -> None:
    every = [words for words, _command in commands()]
    for words, (status, said) in zip(
        every, ended(tmp_path, [[*words, option] for words in every]), strict=True
    ):
        assert status == 0, words
        assert said.startswith(" ".join(["Usage: captcha-assets", *words])), words
        assert said.count("Usage:") == 1, words
        assert "Error" not in said, words


def test_help_is_given_whatever_the_settings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_UI_URL", "nonsense")
    ((status, said), (rejected, error)) = ended(tmp_path, [["batch", "add", "--help"], ["batch", "list"]])
    assert (status, rejected) == (0, 1)
    assert said.startswith("Usage: captcha-assets batch add")
    assert "CAPTCHA_UI_URL" in error


def test_every_command_rejects_an_unknown_option_and_a_group_an_unknown_command(tmp_path: Path) -> None:
    lines = [[*words, "--no-such-option"] for words, _command in commands()]
    lines += [[*words, "no-such-command"] for words, one in commands() if isinstance(one, click.Group)]
    for line, (status, said) in zip(lines, ended(tmp_path, lines), strict=True):
        assert status == 2, (line, said)
        assert line[-1] in said, line


def test_every_command_that_needs_an_argument_says_which(tmp_path: Path) -> None:
    lines = [
        list(words)
        for words, command in commands()
        if any(isinstance(one, click.Argument) and one.required for one in command.params)
    ]
    for line, (status, said) in zip(lines, ended(tmp_path, lines), strict=True):
        assert status == 2, (line, said)
        assert "Missing argument" in said, line


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_after_the_first_command_of_a_home_was_killed_the_next_one_works(
    tmp_path: Path, seconds: float
) -> None:
    command = [sys.executable, "-m", "captcha_assets.cli", "status"]
    first = subprocess.Popen(
        command, env=os.environ | {"CAPTCHA_HOME": str(tmp_path)}, stdout=subprocess.DEVNULL
    )
    while first.poll() is None and not any(
        name.endswith(".db") for _, _, names in os.walk(tmp_path) for name in names
    ):
        time.sleep(0.001)
    time.sleep(seconds)  # Dagster makes three databases of several tables
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert "no model yet" in succeeded(tmp_path, "status")
    succeeded(tmp_path, "batch", "add", "one", "synthetic:3")
    succeeded(tmp_path, "update", "--select", "key:raw_batch")
    assert list((tmp_path / ".dagster").glob(".*")) == []


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "captcha-assets, version 0.1.0\n", "")


def _shell(home: Path, line: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "CAPTCHA_HOME": str(home)}
    command = ["bash", "-o", "pipefail", "-c", line.replace("captcha-assets", COMMAND)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", ["--help", "batch list", "status", pytest.param("update --dry-run", marks=pytest.mark.slow)]
)
def test_a_reader_that_has_gone_away_ends_the_command_without_a_word(tmp_path: Path, arguments: str) -> None:
    done = _shell(tmp_path, f"(sleep 0.2; captcha-assets {arguments}) | true")
    assert done.returncode == 1 or arguments == "batch list"  # which prints nothing in a new home
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", ["--help", "model --help", pytest.param("status", marks=pytest.mark.slow)]
)
def test_a_full_disk_under_standard_output_is_one_line(tmp_path: Path, arguments: str) -> None:
    done = _shell(tmp_path, f"captcha-assets {arguments} > /dev/full")
    assert done.returncode == 1
    words = "standard output: No space left on device; free some space and run it again"
    assert done.stderr == f"Error: {words}\n"


def test_closed_standard_files_harm_no_registration(tmp_path: Path) -> None:
    assert _shell(tmp_path, "captcha-assets batch add tiny synthetic:40:1 <&- >&- 2>&-").returncode == 0
    assert "tiny" in run(tmp_path, "batch", "list").stdout


@pytest.mark.slow
def test_closed_standard_files_harm_no_materialization(tmp_path: Path) -> None:
    done = _shell(tmp_path, "captcha-assets batch add tiny synthetic:40:1 --materialize <&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "artifacts" / "image_table" / "tiny.parquet").exists()
    assert "tiny" in run(tmp_path, "batch", "list").stdout


# --- the UI

ATTENDED = """
import sys, os
from captcha_assets.cli.web import _attended
sys.exit(_attended(sys.argv[1:], os.environ))
"""


def _children_end(processes: list[psutil.Process]) -> None:
    _gone, alive = psutil.wait_procs(processes, timeout=60)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        ("echo ready; sleep 300", signal.SIGINT, 0),
        ("echo ready; sleep 300", signal.SIGTERM, 143),
        ("echo ready; exit 7", None, 7),
        ("echo ready; kill -KILL $$", None, 137),
        ("sleep 300 & echo ready; exit 3", None, 3),
    ],
)
def test_what_the_ui_starts_ends_with_it(line: str, number: int | None, status: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ATTENDED, "bash", "-c", line], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if number is not None:
        process.send_signal(number)
    assert process.wait(60) == status
    _children_end(started)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


LOGGED = """
import sys, os
from pathlib import Path
from captcha_assets.cli.web import _attended
sys.exit(_attended(sys.argv[2:], os.environ, None, Path(sys.argv[1])))
"""
PRINTED = """\
All component YAML validated successfully.
\x1b[32mnow\x1b[0m - dagster.daemon - \x1b[34mWARNING\x1b[0m - no cursor
\x1b[32mnow\x1b[0m - dagster.code_server - \x1b[34mERROR\x1b[0m - \x1b[31mno module
Stack Trace:
  File "definitions.py", line 1
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (None, 3)])
def test_of_what_the_ui_prints_errors_are_shown_until_it_is_stopped(
    tmp_path: Path, number: int | None, status: int
) -> None:
    (tmp_path / "printed").write_text(PRINTED)
    log = tmp_path / "ui.log"
    prints = f"cat {tmp_path}/printed >&2"
    # The trap comes first: the signal is sent as soon as the first line is shown.
    interruptible = f"trap 'echo now - dagster - ERROR - interrupted; exit 1' INT; {prints}; sleep 300 & wait"
    command = ["bash", "-c", interruptible if number else f"{prints}; exit 3"]
    process = subprocess.Popen(
        [sys.executable, "-c", LOGGED, str(log), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if number is not None:
        assert process.stderr
        shown = process.stderr.readline()
        process.send_signal(number)
        output, more = process.communicate(timeout=60)
    else:
        output, shown = process.communicate(timeout=60)
        shown, more = shown.splitlines(keepends=True)
    assert (process.returncode, output) == (status, "")
    assert shown == f"now - dagster.code_server - ERROR - no module (more in {log})\n"
    assert more == ("" if number else f"Error: the UI has ended by itself: {log} says why\n")
    logged = log.read_text().splitlines()
    assert logged[1] == "now - dagster.daemon - WARNING - no cursor"
    assert logged[4:5] == ['  File "definitions.py", line 1']
    assert logged[5:] == (["now - dagster - ERROR - interrupted"] if number else [])


def test_a_port_that_another_program_has_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "ui", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: port {port} cannot be used: Address already in use; give another one by --port\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_the_ui_leaves_no_process_behind(tmp_path: Path, number: int, status: int) -> None:
    port = _free_port()
    variables = {**os.environ, "CAPTCHA_HOME": str(tmp_path)}
    variables["CAPTCHA_REPORTS_URL"] = f"http://localhost:{_free_port()}"
    process = subprocess.Popen(
        [COMMAND, "ui", "--port", str(port)],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not _answers(port):
        time.sleep(0.5)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) > 2
    process.send_signal(number)
    assert process.wait(120) == status
    _children_end(started)
    assert not _answers(port)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_the_report_server_ends_well_by_ctrl_c(tmp_path: Path) -> None:
    port = _free_port()
    variables = {**os.environ, "CAPTCHA_HOME": str(tmp_path)}
    variables["CAPTCHA_REPORTS_URL"] = f"http://localhost:{port}"
    command = [COMMAND, "reports"]
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert str(port) in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_new_home_whose_dagster_home_is_set_says_nothing_of_temporary_folders(tmp_path: Path) -> None:
    done = run(tmp_path, "batch", "list", DAGSTER_HOME=str(tmp_path / ".dagster"))
    assert (done.returncode, done.stderr) == (0, "")
    done = run(tmp_path, "status", DAGSTER_HOME=str(tmp_path / ".dagster"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".dagster" / "history").is_dir()
