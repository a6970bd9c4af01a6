"""What a process imports, seen in an interpreter of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from captcha_assets_tests.architecture.source import PACKAGE, REPOSITORY, modules
from captcha_assets_tests.template.projects import template_repository

HEAVY = [
    "torch", "torchvision", "timm", "pytorch_lightning", "lightning", "torchmetrics", "onnx", "onnxruntime",
    "great_expectations", "sklearn", "pandas", "matplotlib", "kagglehub", "dvc", "ray", "dagster_ray",
]  # fmt: skip

LOADED = f"""
import json, sys
{{}}
print(json.dumps(sorted(set({HEAVY}) & set(sys.modules))))
"""

DEFINITIONS = """
import dagster as dg
from captcha_assets.definitions import defs
assert list((defs() if callable(defs) else defs).resolve_all_asset_specs())
"""


def _run(script: str, home: Path) -> str:
    """Run a script in a new interpreter with an empty home; return what it prints last."""
    env = {**os.environ, "CAPTCHA_HOME": str(home), "DAGSTER_HOME": str(home)}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=home, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.strip().splitlines()[-1]


def test_loading_the_definitions_imports_no_heavy_library(tmp_path: Path) -> None:
    assert json.loads(_run(LOADED.format(DEFINITIONS), tmp_path)) == [], "import it where an asset runs"


def test_the_package_needs_nothing_that_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "captcha_assets"
    shutil.copytree(REPOSITORY / PACKAGE, installed, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(installed.parent))
    file = _run(f"{DEFINITIONS}\nimport captcha_assets\nprint(captcha_assets.__file__)", tmp_path)
    assert file == str(installed / "__init__.py")


def test_the_command_line_starts_without_any_heavy_library(tmp_path: Path) -> None:
    loaded = json.loads(_run(LOADED.format("import dagster, captcha_assets.cli"), tmp_path))
    assert loaded == []


def test_the_service_imports_no_orchestrator_no_torch_and_no_data_frames(tmp_path: Path) -> None:
    names = [one.name for one in modules() if one.package == "serving"]
    assert "captcha_assets.serving.server" in names
    script = (
        f"import importlib, json, sys\n[importlib.import_module(name) for name in {names}]\n"
        "unwanted = {'torch', 'dagster', 'polars', 'upath', 'pandas', 'pyarrow'}\n"
        "print(json.dumps(sorted(unwanted & set(sys.modules))))"
    )
    assert json.loads(_run(script, tmp_path)) == []


# --- a machine that has only one extra


def _installed_with(extra: str) -> set[str]:
    """Return the distributions that the package and one of its extras bring, and theirs."""
    seen: set[tuple[str, str]] = set()
    waiting = [(PACKAGE.replace("_", "-"), extra), (PACKAGE.replace("_", "-"), "")]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            requirements = [Requirement(one) for one in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        for one in requirements:
            if one.marker is None or one.marker.evaluate({"extra": wanted}):
                waiting += [(canonicalize_name(one.name), added) for added in {"", *one.extras}]
    return {name for name, _ in seen}


def _absent_with(extra: str) -> list[str]:
    """Return the import names that this environment has and a machine with one extra has not."""
    installed = _installed_with(extra)
    return sorted(
        name
        for name, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & installed
        and re.fullmatch(r"[A-Za-z]\w*", name)
        and name not in sys.stdlib_module_names
    )


WITHOUT = """
import importlib, json, re, sys
from importlib.machinery import PathFinder

absent = set(json.loads({absent!r}))
installed = set(json.loads({installed!r}))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        every = super().find_distributions(*args, **kwargs)
        return (one for one in every if re.sub("[-_.]+", "-", one.metadata["Name"]).lower() in installed)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for name in json.loads({modules!r}):
    importlib.import_module(name)
print("all imported")
"""


def _importing(names: list[str], extra: str) -> str:
    """Return a script that imports modules as if nothing but one extra were installed."""
    return WITHOUT.format(
        absent=json.dumps(_absent_with(extra)),
        installed=json.dumps(sorted(_installed_with(extra))),
        modules=json.dumps(names),
    )


def _in_room(*names: str) -> list[str]:
    """Return the modules of packages, or single modules, that exist."""
    return [
        one.name for one in modules() if one.package in names or one.name.removeprefix(f"{PACKAGE}.") in names
    ]


def test_the_training_extra_does_not_bring_the_orchestrator() -> None:
    installed = _installed_with("training")
    assert {"torch", "timm", "pytorch-lightning", "pydantic", "pyarrow"} <= installed
    assert not installed & {"dagster", "polars", "universal-pathlib", "pandas", "dvc"}


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        pytest.param("training", ("training", "models.folder"), marks=pytest.mark.slow),
        ("serving", ("serving", "models.predictor")),
    ],
)
def test_a_machine_with_one_extra_imports_what_it_runs(
    tmp_path: Path, extra: str, packages: tuple[str, ...]
) -> None:
    names = _in_room(*packages)
    if not names:
        pytest.skip(f"nothing stands in {packages} yet")
    assert _run(_importing(names, extra), tmp_path) == "all imported"


def _command(line: str, extra: str, home: Path) -> subprocess.Popen[str]:
    """Start a command as if nothing but one extra were installed."""
    run = f"sys.argv = ['captcha-assets', *{line.split()!r}]\nfrom captcha_assets.cli import main\nmain()"
    script = f"{_importing([], extra)}\n{run}"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"CAPTCHA_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_machine_with_the_serving_extra_serves(tmp_path: Path) -> None:
    with _command("serve --port 0", "serving", tmp_path) as service:
        assert service.stdout
        lines = [service.stdout.readline() for _ in range(3)]
        service.send_signal(signal.SIGINT)
    assert lines[1].startswith("serving at http://127.0.0.1:"), lines
    assert service.returncode == 0


def test_a_machine_with_the_template_extra_makes_a_project(tmp_path: Path) -> None:
    template, made = template_repository(tmp_path / "template"), tmp_path / "digits"
    options = f"--template {template} --classes a,b --height 8 --width 8 --defaults"
    with _command(f"new {made} {options}", "template", tmp_path) as ended:
        output, _ = ended.communicate()
    assert ended.returncode == 0, output
    assert (made / "digits" / "dataset.py").exists()


def test_a_command_whose_libraries_are_not_installed_says_what_to_install(tmp_path: Path) -> None:
    with _command("status", "serving", tmp_path) as ended:
        output, _ = ended.communicate()
    assert ended.returncode == 1
    assert re.fullmatch(
        r"Error: this command needs \w+: install captcha-assets\[platform\]", output.splitlines()[-1]
    )


def test_the_blocked_libraries_are_really_out_of_reach(tmp_path: Path) -> None:
    assert {"dagster", "polars", "ray", "upath"} <= set(_absent_with("training"))
    with pytest.raises(AssertionError, match="No module named 'polars'"):
        _run(_importing(["polars"], "training"), tmp_path)


def test_the_training_process_says_how_it_is_started(tmp_path: Path) -> None:
    if not (REPOSITORY / PACKAGE / "training" / "__main__.py").is_file():
        pytest.skip("there is no training process yet")
    ended = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.training"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "usage" in ended.stderr
