"""A Dagster component: the assets of a data set in a project that has other assets, and other data sets."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from captcha_assets.dataset import DatasetError, load_dataset
from captcha_assets.definitions import build_definitions
from captcha_assets.defs.names import LONGEST_PREFIX, PREFIX, Names
from captcha_assets.defs.prefixed_assets import PrefixedDataset
from captcha_assets.defs.prefixed_definitions import prefixed_definitions
from captcha_assets.settings import Settings, load_settings

_DEFS_YAML = """\
type: {type_name}

attributes:
  # module:NAME of a DatasetSpec: what the images look like and how they are labelled.
  dataset: {dataset}
  # Folder of the batches, tables and models, relative to the project. Each data set has one of its own.
  home: homes/{prefix}
  # First part of the asset keys. Jobs, sensors, groups, pools and partition sets begin with it too.
  prefix: {prefix}
"""


class ScaffoldParams(BaseModel):
    """What `dg scaffold defs captcha_assets.ImageClassification NAME` may be given."""

    dataset: str = Field(
        default="captcha_assets.dataset:CAPTCHA", description="module:NAME of a DatasetSpec."
    )


class ImageClassificationScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes the `defs.yaml` of a data set."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return the model of the options."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the file; the name of its folder becomes the prefix."""
        dataset = (request.params or ScaffoldParams()).dataset
        attributes = {"dataset": dataset, "prefix": _prefix_of(request.target_path.name)}
        if request.scaffold_format != "yaml" or request.append:
            dg.scaffold_component(request, {**attributes, "home": f"homes/{attributes['prefix']}"})
            return
        text = _DEFS_YAML.format(type_name=request.type_name, **attributes)
        (request.target_path / "defs.yaml").write_text(text)


def _prefix_of(name: str) -> str:
    """Return a prefix that is like the name of a folder."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    named = plain if plain[:1].isalpha() else f"dataset_{plain}"
    return named[:LONGEST_PREFIX].rstrip("_")


@dg.scaffold_with(ImageClassificationScaffolder)
class ImageClassification(dg.Component, dg.Model, dg.Resolvable):
    """Everything from batches of labelled images to a promoted model, for one data set.

    Several of them stand side by side in one code location, each with a prefix and a home of its own.
    """

    dataset: str = Field(description="module:NAME of a DatasetSpec.", examples=["my_project.digits:DIGITS"])
    home: str = Field(
        description="Folder of the batches, tables and models, relative to the project.",
        examples=["homes/digits"],
    )
    prefix: str = Field(
        pattern=PREFIX,
        description="First part of the asset keys: up to 50 small letters, digits and underscores.",
        examples=["digits"],
    )
    reports_url: str | None = Field(
        default=None,
        description="Where `captcha-assets reports` serves the reports of this home; default "
        "CAPTCHA_REPORTS_URL.",
        examples=["http://localhost:3002"],
    )

    def home_in(self, project: Path) -> Path:
        """Return the absolute folder of the home in a project."""
        return (project / Path(self.home).expanduser()).resolve()

    def _own_home(self, project: Path) -> Path:
        """Return the folder of the home, where it can be one.

        Raises:
            DagsterInvalidDefinitionError: it cannot.
        """
        rejected = f"home={self.home!r} cannot be used for {self.prefix}:"
        if "\0" in self.home:
            raise dg.DagsterInvalidDefinitionError(f"{rejected} it is no name of a folder")
        home, project = self.home_in(project), project.resolve()
        if home in (project, *project.parents):
            raise dg.DagsterInvalidDefinitionError(
                f"{rejected} name a folder of its own, such as homes/{self.prefix}"
            )
        if home.exists() and not home.is_dir():
            raise dg.DagsterInvalidDefinitionError(f"{rejected} it is a file, name a folder")
        return home

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the assets, checks, jobs and sensors of the data set.

        Raises:
            DagsterInvalidDefinitionError: there is no such data set, or its home is that of another one.
        """
        try:
            spec = load_dataset(self.dataset, "dataset")
        except DatasetError as error:
            raise dg.DagsterInvalidDefinitionError(str(error)) from None  # it says it all
        home = self._own_home(context.project_root)
        for other in context.component_tree.get_all_components(ImageClassification):
            its_home = other.home_in(context.project_root)
            if other.prefix != self.prefix and (
                its_home in (home, *home.parents) or home in its_home.parents
            ):
                raise dg.DagsterInvalidDefinitionError(
                    f"home={self.home!r} cannot be used for {self.prefix} and {other.prefix}: one home holds "
                    "one data set and lies in no other, name another folder"
                )
        reports = {"reports_url": self.reports_url} if self.reports_url else {}
        plain = [one for one in build_definitions(spec).assets or [] if isinstance(one, dg.AssetsDefinition)]
        of = PrefixedDataset(
            Names(self.prefix), spec, lambda: settings_of(home, spec.kaggle_dataset, **reports)
        )
        return prefixed_definitions(plain, of)


def settings_of(home: Path, kaggle_dataset: str | None, **others: Any) -> Settings:
    """Return the settings of one of several homes: what names a place is not read from the environment.

    Raises:
        SettingsError: a value cannot be used.
    """
    return load_settings(
        home=home,
        artifacts=str(home / "artifacts"),
        profile="local",
        database=None,
        kaggle_dataset=kaggle_dataset,
        **others,
    )
