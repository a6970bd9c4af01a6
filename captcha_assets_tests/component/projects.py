"""A Dagster project that has nothing to do with this package, and two data sets to bring into it."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.defs.test_other_datasets import crops, encoded, write
from captcha_assets_tests.documentation.pages import blocks
from captcha_assets_tests.template.projects import said

PAGE = REPOSITORY / "docs" / "component.md"
(_SPEC,) = blocks(PAGE, "python")

#: As `create-dagster project` lays a project out.
_FILES = {
    "pyproject.toml": """\
[project]
name = "my-project"
version = "0.1.0"
requires-python = ">=3.11"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "my_project"
""",
    "src/my_project/__init__.py": "",
    "src/my_project/definitions.py": """\
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
    "src/my_project/defs/__init__.py": "",
    "src/my_project/defs/champion.py": """\
import dagster as dg


@dg.asset
def champion():
    \"\"\"An asset of the project that is called like one of captcha-assets.\"\"\"
""",
    "src/my_project/datasets.py": _SPEC
    + """
PHOTOS = DatasetSpec(
    name="photos",
    classes=("china", "flower"),
    height=40,
    width=48,
    channels=3,
    formats=("jpeg",),
    label_from="folder",
    other_sizes="resize",
)
""",
    ".dagster/dagster.yaml": "telemetry:\n  enabled: false\nnux:\n  enabled: false\n",
}


def project(folder: Path) -> Path:
    """Write a project as `create-dagster` does, with two data sets described in it."""
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def dg_said(folder: Path, *arguments: str) -> str:
    """Run `dg` in a project; it must succeed. Return what it printed."""
    return said(folder, "dg", *arguments, **variables(folder))


def variables(folder: Path) -> dict[str, str]:
    """Environment of a project that is not installed, with an instance of its own."""
    modules = f"{folder / 'src'}:{REPOSITORY}"
    return {"DAGSTER_HOME": str(folder / ".dagster"), "PYTHONPATH": modules, "COLUMNS": "200"}


def digits_archive(path: Path) -> str:
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    labelled = enumerate(zip(images, found.target, strict=True))
    return write(path, {f"{label}_{n}.png": encoded(image, ".png") for n, (image, label) in labelled})


def photos_archive(path: Path) -> str:
    pieces = enumerate(crops(np.random.default_rng(0), 40))
    return write(
        path, {f"photos/{label}/{n}.jpg": encoded(piece[..., ::-1], ".jpg") for n, (label, piece) in pieces}
    )


ARCHIVES = {"digits": digits_archive, "photos": photos_archive}
