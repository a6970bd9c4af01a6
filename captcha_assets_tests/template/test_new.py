"""`captcha-assets new`: what it makes, what it says where it cannot, what an update of the template keeps."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from captcha_assets_tests.commands import run
from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.defs import digits
from captcha_assets_tests.documentation.pages import blocks
from captcha_assets_tests.template.projects import (
    BIN,
    DIGITS,
    PHOTOS,
    commit,
    environment,
    git,
    new,
    said,
    template_repository,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_repository(tmp_path_factory.mktemp("template") / "repository")


def spec_of(project: Path, package: str) -> dict:
    """Load the spec of a project in a process of its own."""
    script = (
        f"import json\nfrom dataclasses import asdict\nfrom {package}.dataset import DATASET\n"
        "print(json.dumps(asdict(DATASET)))"
    )
    variables = environment(PYTHONPATH=f"{project}:{REPOSITORY}")
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, check=True)
    return json.loads(done.stdout)


def test_the_answers_become_a_spec(template: Path, tmp_path: Path) -> None:
    gray = spec_of(new(template, tmp_path / "my-digits", *DIGITS), "my_digits")
    assert (gray["name"], gray["classes"], gray["channels"]) == ("my_digits", list("0123456789"), 1)
    photos = spec_of(new(template, tmp_path / "photos", "--package", "pictures", *PHOTOS), "pictures")
    assert (photos["name"], photos["classes"], photos["formats"]) == (
        "pictures",
        ["china", "flower"],
        ["jpeg"],
    )
    assert (photos["height"], photos["width"], photos["channels"]) == (40, 48, 3)
    assert (photos["label_from"], photos["other_sizes"]) == ("folder", "resize")


def test_the_spec_on_the_page_is_the_one_that_is_taken_from_an_archive_to_a_prediction() -> None:
    (spec,) = blocks(REPOSITORY / "docs" / "template.md", "python")
    shown: dict[str, Any] = {}
    exec(spec, shown)
    assert shown["DATASET"] == digits.DATASET  # of defs/test_other_datasets.py


def test_a_project_takes_the_locked_versions_and_one_source(template: Path, tmp_path: Path) -> None:
    project = new(template, tmp_path / "digits", *DIGITS)
    lines = [line for line in (project / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    names = {Requirement(line).name for line in lines if line}
    assert {"dagster", "torch", "polars"} <= names
    assert all("==" in line for line in lines if line)
    needed = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    (service,), (platform,) = needed["dependencies"], needed["optional-dependencies"]["platform"]
    assert Requirement(service).url == Requirement(platform).url == f"file://{REPOSITORY}"


def test_no_file_of_a_project_holds_a_placeholder(template: Path, tmp_path: Path) -> None:
    project = new(template, tmp_path / "digits", *DIGITS)
    made = [path for path in project.rglob("*") if path.is_file()]
    assert len(made) > 15
    assert [path for path in made if path.suffix == ".jinja" or "{" in path.name] == []
    assert [path for path in made if "{{" in path.read_text() or "{%" in path.read_text()] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "Bad Name!", *DIGITS), "Bad Name! cannot name a project: use small letters"),
        (("--package", "json", *DIGITS), "'json' cannot name a package, since Python has this name"),
        (("--package", "captcha_assets", *DIGITS), "captcha_assets cannot name a package"),
        (("--classes", "a,b,a", "--height", "8", "--width", "8", "--defaults"), "name two classes or more"),
        (("--classes", "a,b", "--height", "7", "--width", "8", "--defaults"), "8 pixels a side or more"),
        (("--classes", "a,b", "--defaults"), "height"),
        (("--source", "somewhere", *DIGITS), "somewhere cannot be used: give git+https://"),
    ],
)
def test_a_bad_answer_is_one_line_and_makes_nothing(
    template: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    source = () if "--source" in options else ("--source", str(REPOSITORY))
    done = run(tmp_path, "new", str(tmp_path / "made"), "--template", str(template), *source, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr
    assert not (tmp_path / "made").exists()


def test_nobody_to_ask_is_one_line(template: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "new", str(tmp_path / "made"), "--template", str(template))
    expected = "Error: there is no terminal to ask at: answer by options, and give --defaults\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_a_folder_that_is_in_use_is_left_alone(template: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    done = run(tmp_path, "new", str(full), "--template", str(template), *DIGITS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {full} is not empty: name a new folder")
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]
    done = run(tmp_path, "new", str(full / "thesis.txt"), *DIGITS)
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {full / 'thesis.txt'} is a file: name a new folder\n",
    )


def test_a_template_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    missing = f"git+file://{tmp_path}/nowhere"
    done = run(tmp_path, "new", str(tmp_path / "made"), "--template", missing, *DIGITS)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {missing}: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_copier_it_says_what_to_install(template: Path, tmp_path: Path) -> None:
    (tmp_path / "copier.py").write_text(
        "raise ModuleNotFoundError(name='copier')"
    )  # found before copier's own
    script = "from captcha_assets.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        script,
        "new",
        str(tmp_path / "made"),
        "--template",
        str(template),
        *DIGITS,
    ]
    variables = environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    expected = "Error: this needs copier: install captcha-assets[template]\n"
    assert (done.returncode, done.stderr) == (1, expected)


# --- a new version of the template


def test_an_update_keeps_what_the_owner_changed_and_brings_what_is_new(tmp_path: Path) -> None:
    template = template_repository(tmp_path / "repository")
    project = new(template, tmp_path / "digits", *DIGITS)
    commit(project)
    spec = project / "digits" / "dataset.py"
    spec.write_text(spec.read_text().replace("    height=8,\n", "    height=8,\n    largest_file=4096,\n"))
    makefile = project / "Makefile"
    makefile.write_text(makefile.read_text() + "\nmine: ## A target of the owner\n\t@true\n")
    commit(project)
    shared = template / "template" / "Makefile.jinja"
    shared.write_text(shared.read_text().replace("PYTHON := python3.11", "PYTHON := python3.12"))
    (template / "template" / "NEW.md").write_text("new in 1.1.0\n")
    commit(template, "1.1.0")
    said(project, "copier", "update", "--defaults")
    text = makefile.read_text()
    assert "PYTHON := python3.12" in text
    assert "mine: ## A target of the owner" in text
    assert "largest_file=4096" in spec.read_text()
    assert (project / "NEW.md").read_text() == "new in 1.1.0\n"
    assert "_commit: 1.1.0" in (project / ".copier-answers.yml").read_text()
    files = [path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert [path for path in files if "<<<<<<<" in path.read_text() or path.suffix == ".rej"] == []


# --- where the template is


@pytest.mark.slow
def test_a_package_installed_from_git_makes_a_project_of_its_own_commit(tmp_path: Path) -> None:
    repository, site = code_repository(tmp_path / "repository"), tmp_path / "site"
    install(f"captcha-assets @ git+file://{repository}", site)
    command = [sys.executable, "-m", "captcha_assets.cli", "new", "digits", *DIGITS]
    variables = environment(PYTHONPATH=str(site))
    subprocess.run(command, cwd=tmp_path, env=variables, check=True)
    head = git(repository, "rev-parse", "HEAD").strip()
    answers = (tmp_path / "digits" / ".copier-answers.yml").read_text()
    assert f"_src_path: git+file://{repository}" in answers
    assert f"captcha_assets_source: git+file://{repository}@{head}" in answers


@pytest.mark.slow
def test_a_wheel_takes_the_template_that_is_named_and_works_in_the_project(
    template: Path, tmp_path: Path
) -> None:
    repository, site = code_repository(tmp_path / "repository"), tmp_path / "site"
    subprocess.run([str(BIN / "uv"), "build", "--wheel", "--quiet", str(repository)], check=True)
    (wheel,) = (repository / "dist").glob("*.whl")
    install(f"captcha-assets @ file://{wheel}", site)

    def captcha_assets(folder: Path, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "captcha_assets.cli", *arguments]
        variables = environment(PYTHONPATH=str(site))
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr + done.stdout

    without = (
        "Error: this installation has no template: name the git repository of captcha-assets by --template"
    )
    assert captcha_assets(tmp_path, "new", "digits", *DIGITS) == (1, f"{without}\n")
    made, said = captcha_assets(tmp_path, "new", "digits", *DIGITS, "--template", str(template))
    assert made == 0, said
    assert f"file://{wheel}" in (tmp_path / "digits" / "pyproject.toml").read_text()
    failed, said = captcha_assets(tmp_path, "status")
    assert failed == 1
    assert said.startswith("Error: CAPTCHA_HOME is not set, and this folder belongs to no project")
    switched, said = captcha_assets(tmp_path / "digits", "automation", "on")
    assert switched == 0, said
    assert "automation: on" in said


def code_repository(folder: Path) -> Path:
    """Make a git repository of the package and its template as they are now."""
    template_repository(folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "captcha_assets", folder / "captcha_assets", ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, folder / name)
    commit(folder)
    return folder


def install(requirement: str, site: Path) -> None:
    """Install the package alone into a folder; what it depends on is this environment's."""
    command = [str(BIN / "uv"), "pip", "install", "--quiet", "--offline", "--no-deps"]
    subprocess.run([*command, "--python", sys.executable, "--target", str(site), requirement], check=True)
