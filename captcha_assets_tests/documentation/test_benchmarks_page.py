"""The page of benchmarks is what its command makes of the results, and each claim can be measured again."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import page, results
from benchmarks.catalog import BENCHMARKS, GPU, Benchmark
from benchmarks.results import Claim
from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.forked_module import run_module

KEPT = {path.stem: results.read(path) for path in sorted(results.FOLDER.glob("*.json"))}


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def module_of(command: str) -> str:
    found = re.match(r"python -m ([\w.]+)(?: |$)", command)
    assert found, command
    return found[1]


def runs(module: str) -> bool:
    """Whether `python -m MODULE` finds something to run."""
    found = find_spec(module)
    if found is None:
        return False
    return not found.submodule_search_locations or find_spec(f"{module}.__main__") is not None


def test_the_page_is_what_the_command_makes_of_the_results() -> None:
    assert page.PAGE.read_text() == page.rendered(results.FOLDER), "run: make benchmarks-page"


def test_every_claim_names_a_command_whose_module_exists() -> None:
    assert KEPT
    commands = [*(one.command for one in BENCHMARKS), *(one.command for one in KEPT.values())]
    assert [command for command in commands if not runs(module_of(command))] == []


def test_every_result_has_claims_a_date_and_a_machine_and_is_measured_by_its_benchmark() -> None:
    benchmarks = {one.name: one for one in BENCHMARKS}
    for name, result in KEPT.items():
        assert module_of(result.command) == benchmarks[name].module
        assert result.claims, name
        assert result.date, name
        assert result.carried_from or (result.machine.processor and len(result.machine.load) == 2), name
        assert all(not one.alternative or one.alternative_name for one in result.claims), name


def test_the_page_that_explains_a_benchmark_exists() -> None:
    for one in BENCHMARKS:
        assert (REPOSITORY / "docs" / one.page.partition("#")[0]).exists(), one.name


def test_a_benchmark_without_a_result_is_listed_as_not_measured(tmp_path: Path) -> None:
    listed = page.rendered(tmp_path).partition("## Not measured here")[2]
    for one in BENCHMARKS:
        assert f"`{one.command}`" in listed
    assert "| Training on a GPU | `python -m benchmarks.train --only device` | needs a GPU |" in listed
    assert "GPU" in GPU.words


def test_a_benchmark_whose_need_is_not_met_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTCHA_HOME", raising=False)
    (one,) = (one for one in BENCHMARKS if one.name == "quantization")
    assert str(one.obstacle).startswith("needs a home with a champion")
    assert replace(one, need=None).obstacle is None


@pytest.mark.parametrize(
    ("better", "ours", "alternative", "ratio"),
    [
        ("less", 2.0, 9.0, 4.5),
        ("more", 300.0, 100.0, 3.0),
        ("less", 4.0, 2.0, 0.5),
        ("less", 0.0, 7.0, None),
        ("less", 1.0, None, None),
    ],
)
def test_a_ratio_above_one_says_that_ours_is_better(
    better: str, ours: float, alternative: float | None, ratio: float | None
) -> None:
    assert Claim("a", "a", ours, "s", alternative, "another", better).ratio == ratio


def test_a_benchmark_writes_its_result_and_the_page_shows_it(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    done = started("-m", "benchmarks", "generator", "--results", str(tmp_path), "--page", str(target))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "generator.json").read_text())
    (claim,) = found["claims"]
    assert claim["ours"] > 0
    assert (claim["unit"], found["command"]) == ("images/s", "python -m benchmarks.generator")
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["numpy"]
    text = target.read_text()
    assert f"Measured, {found['date']}: {found['machine']['processor']}" in text
    assert "`python -m benchmarks.generator`" in text.partition("## Not measured here")[0]


def test_an_unknown_benchmark_and_a_damaged_result_are_named_in_one_line(tmp_path: Path) -> None:
    unknown = started("-m", "benchmarks", "speed", "--results", str(tmp_path), "--page", str(tmp_path / "p"))
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: there is no benchmark speed; there are: ingest, ")
    assert len(unknown.stderr.splitlines()) == 1
    (tmp_path / "ingest.json").write_text("{}")
    with pytest.raises(results.ResultError, match=r"ingest\.json holds no result of a benchmark"):
        page.rendered(tmp_path)


def test_a_result_of_no_benchmark_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text((results.FOLDER / "generator.json").read_text())
    with pytest.raises(results.ResultError, match="belongs to no benchmark"):
        page.rendered(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.name)
def test_every_benchmark_can_write_its_result(benchmark: Benchmark, tmp_path: Path) -> None:
    status = run_module(benchmark.module, "--help", output=tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert status == 0, said
    assert "--result FILE" in said
