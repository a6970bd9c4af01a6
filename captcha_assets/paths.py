"""Paths of one installation: every file and folder lies below one *home*.

Two homes never touch each other, unless both have the profile `shared`, one database and one object store.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from captcha_assets.atomic_files import AnyPath, path_of

REPOSITORY = Path(__file__).resolve().parent.parent

#: A database's address: a user and a password, a host and a port by need, and the name of the database.
_DATABASE = re.compile(r"postgresql(\+psycopg2)?://[^/?#\s]*/[^/?#\s]+(\?[^#\s]*)?")

#: What shows that a folder is a home: a command put it there, or a person who moves a home.
_OF_A_HOME = {
    "data",
    "data.dvc",
    "artifacts",
    "inbox",
    "configs",
    "label_decisions.csv",
    ".dagster",
    ".serving",
}


def folder_or_store(location: str, parent: Path) -> str:
    """Return an object store's address as it is, and a folder as an absolute path.

    Args:
        location: a folder, or an address that begins with file://, s3:// or gs://.
        parent: what a relative path is relative to.

    Raises:
        ValueError: it is none of these.
    """
    scheme, separator, place = location.rpartition("://")
    if not separator or scheme == "file":
        return str(parent / Path(place).expanduser())
    if scheme not in {"s3", "gs"}:
        raise ValueError(f"{scheme}:// is not supported: give a folder, s3://... or gs://...")
    if not place.strip("/"):
        raise ValueError(f"name a bucket: {scheme}://<bucket>/<folder>")
    if "@" in place.partition("/")[0]:
        raise ValueError("credentials are never taken from an address: they stand in variables of their own")
    if "?" in place:
        raise ValueError("leave out what follows the ?: settings of a store stand in variables of their own")
    if "//" in place.rstrip("/"):  # a store takes // for a folder without a name
        raise ValueError(f"leave out the doubled /: {scheme}://{re.sub('/+', '/', place).strip('/')}")
    return f"{scheme}://{place.rstrip('/')}"


def how_to_restore(path: AnyPath, tracked: str) -> str:
    """Return how a lost or damaged file of `data` comes back, in words.

    Args:
        path: the file, or the folder that it lay in.
        tracked: what DVC is asked for, of a home's own disk.
    """
    if isinstance(path, Path):
        return f"with `dvc checkout {tracked}`, with `dvc pull {tracked}`, or from a backup"
    return "from the earlier versions that the bucket keeps, or from a backup of it"


class Paths(BaseSettings):
    """Where the things of one home are kept: each field is read from `CAPTCHA_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="CAPTCHA_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # one of them is a secret
    )

    home: Annotated[Path, Field(description="Folder of data/, artifacts/, inbox/ and .dagster/.")] = (
        REPOSITORY
    )
    artifacts: Annotated[
        str | None,
        NoDecode,
        Field(
            description="Folder or s3://, gs:// address of everything that Dagster materializes; "
            "default <home>/artifacts."
        ),
    ] = None
    profile: Annotated[
        Literal["local", "shared"],
        Field(description="local: one machine; shared: several hosts with one database and one store."),
    ] = "local"
    database: Annotated[
        SecretStr | None,
        Field(description="postgresql:// address that the profile shared keeps runs, logs and locks in."),
    ] = None

    dvc_remote: Annotated[
        str | None,
        Field(
            description="Folder or s3://, gs:// address without a password that DVC pushes data/ to; default "
            "the default remote of .dvc/config, if any."
        ),
    ] = None

    @field_validator("home")
    @classmethod
    def _absolute_folder(cls, home: Path) -> Path:
        try:
            home = home.expanduser().resolve()
        except RuntimeError as error:  # links that lead to each other, or a user that is not there
            raise ValueError(f"it leads nowhere ({error})") from error
        if home.exists() and not home.is_dir():
            raise ValueError(f"{home} is not a folder")
        if set("?%") & set(str(home)):  # addresses of SQLite databases give them a meaning of their own
            raise ValueError("no folder may be used whose path holds ? or %: choose another one")
        return home

    @field_validator("artifacts")
    @classmethod
    def _folder_or_store(cls, artifacts: str | None, info: ValidationInfo) -> str:
        """Return an object store's address as it is, and a folder as an absolute path."""
        return folder_or_store(artifacts or "artifacts", info.data.get("home", REPOSITORY))

    @field_validator("dvc_remote")
    @classmethod
    def _remote_without_secret(cls, remote: str | None) -> str | None:
        """Return the address of a remote as it is, and a folder as an absolute path."""
        if remote is None:
            return None
        scheme, separator, location = remote.rpartition("://")
        if not separator:
            return str(Path(remote).expanduser().resolve())
        if scheme not in {"s3", "gs"} or not location.strip("/"):
            raise ValueError("give a folder, s3://<bucket>/<folder> or gs://<bucket>/<folder>")
        if "@" in location:
            raise ValueError("leave the password out: the store's own variables hold it")
        return remote.rstrip("/")

    @field_validator("database")
    @classmethod
    def _address_of_a_database(cls, address: SecretStr | None) -> SecretStr | None:
        if address is not None and not _DATABASE.fullmatch(address.get_secret_value()):
            raise ValueError("give postgresql://user:password@host/database")
        return address

    @model_validator(mode="after")
    def _whole_profile(self) -> "Paths":
        """Accept the profile `shared` only where everything that it shares has a place."""
        if self.profile != "shared":
            return self
        if self.database is None:
            raise ValueError(
                "CAPTCHA_PROFILE=shared needs a database: set CAPTCHA_DATABASE to "
                "postgresql://user:password@host/database"
            )
        _, separator, place = str(self.artifacts).partition("://")
        if not separator or "/" not in place:  # beside that folder lies what else is shared
            raise ValueError(
                "CAPTCHA_PROFILE=shared needs an object store: set CAPTCHA_ARTIFACTS to "
                "s3://<bucket>/<folder> or gs://<bucket>/<folder>"
            )
        return self

    @property
    def shared_database(self) -> str | None:
        """Address of the database of the profile `shared`, a secret; None in the profile `local`."""
        if self.profile != "shared" or self.database is None:
            return None
        return self.database.get_secret_value()

    @property
    def unused_settings(self) -> str | None:
        """Return which setting the profile does not use, in one line; None where all are used."""
        if self.profile == "local" and self.database is not None:
            return "CAPTCHA_DATABASE is not used, since CAPTCHA_PROFILE is local: set shared, or unset it"
        return None

    @property
    def shared_root(self) -> AnyPath:
        """Root of what a home has besides its artifacts: the home itself, or the store of all hosts."""
        return self.home if self.profile == "local" else self.artifact_root.parent

    @property
    def data(self) -> AnyPath:
        """Folder of the archives and of the record of split assignments. DVC tracks it in a local home."""
        return self.shared_root / "data"

    @property
    def data_record(self) -> AnyPath:
        """DVC's record of `data`."""
        return self.shared_root / "data.dvc"

    @property
    def raw(self) -> AnyPath:
        """Folder of the archives exactly as delivered, `<batch>.zip` each."""
        return self.data / "raw"

    @property
    def split_assignments(self) -> AnyPath:
        """Folder of the record of split assignments."""
        return self.data / "splits"

    @property
    def inbox(self) -> AnyPath:
        """Folder from which new batches are ingested."""
        return self.shared_root / "inbox"

    def why_no_home(self) -> str | None:
        """Return why the home is none, in words; None where it is one, or an empty folder to become one."""
        if not self.home.exists():
            return "it does not exist"
        names = {path.name for path in self.home.iterdir()}
        others = {name for name in names if not name.startswith(".")} - {"lost+found"}
        if self.home == REPOSITORY or not others or names & _OF_A_HOME:
            return None
        return "it holds other files, and none of a home"

    @property
    def unfinished_restoration(self) -> Path:
        """Folder that a backup is unpacked into; it is there until all of it is in place."""
        return self.home / ".restoring"

    @property
    def finished_restoration(self) -> Path:
        """Name of that folder when all of it is in place, until it is removed."""
        return self.home / ".restored"

    @property
    def component(self) -> Path:
        """File with the prefix of the component that this home belongs to, in a project with other assets."""
        return self.home / ".component"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance."""
        return self.home / ".dagster"

    @property
    def scratch(self) -> Path:
        """Folder of work in progress on this machine's own disk: checkpoints, half-done downloads."""
        return self.home / ".scratch"

    @cached_property
    def artifact_root(self) -> AnyPath:
        """Root of everything that Dagster materializes: a local folder or an object store."""
        return path_of(str(self.artifacts))

    @property
    def dataset_record(self) -> AnyPath:
        """Which data set the home holds."""
        return self.artifact_root / "dataset.json"

    @property
    def registrations(self) -> AnyPath:
        """Folder of the registrations: where each batch comes from."""
        return self.artifact_root / "deliveries"

    def registration(self, batch: str) -> AnyPath:
        """Where one batch comes from."""
        return self.registrations / f"{batch}.json"

    def image_table(self, batch: str) -> AnyPath:
        """One row per usable image of a batch."""
        return self.artifact_root / "image_table" / f"{batch}.parquet"

    def rejected_images(self, batch: str) -> AnyPath:
        """One row per rejected member of a batch."""
        return self.artifact_root / "rejected_images" / f"{batch}.parquet"

    def validation_results(self, table: str, batch: str | None = None) -> AnyPath:
        """Folder of the validation results of a table, or of one batch's part of it, and their report."""
        root = self.artifact_root / "quality" / table
        return root / batch if batch else root

    @property
    def data_docs(self) -> AnyPath:
        """Folder of Great Expectations' own site."""
        return self.artifact_root / "data_docs"

    @property
    def image_index(self) -> AnyPath:
        """Folder of the table with one row per distinct image over all batches."""
        return self.artifact_root / "image_index"

    @property
    def splits(self) -> AnyPath:
        """Folder of the table with the split of every image: image id, label, group, split, batch."""
        return self.artifact_root / "splits"

    @property
    def data_report(self) -> AnyPath:
        """The page on all batches together: counts, classes, rejects, near-duplicates."""
        return self.artifact_root / "data_report" / "report.html"

    @property
    def models(self) -> AnyPath:
        """The registry: one folder per model, the candidate, the history of the champion."""
        return self.artifact_root / "models"

    @property
    def alerts(self) -> AnyPath:
        """Where alerts are noted: a file with one a line, or a folder of the store with a file for each."""
        return self.home / "alerts.jsonl" if self.profile == "local" else self.shared_root / "alerts"

    @property
    def label_decisions(self) -> AnyPath:
        """The decisions of people about images whose labels contradict each other; a file to commit."""
        return self.shared_root / "label_decisions.csv"

    @property
    def label_conflicts(self) -> AnyPath:
        """Every image whose labels contradict each other, as decisions that are still open."""
        return self.artifact_root / "label_conflicts.csv"

    @property
    def serving(self) -> Path:
        """Folder of the service on this machine: its prediction log, and the archives of corrections."""
        return self.home / ".serving"

    def prediction_log(self, day: str) -> AnyPath:
        """One row per prediction of a day, with its latest correction."""
        return self.artifact_root / "prediction_log" / f"{day}.parquet"

    def rejected_predictions(self, day: str) -> AnyPath:
        """One row per row of the log of a day that cannot be read."""
        return self.artifact_root / "rejected_predictions" / f"{day}.parquet"

    @property
    def drift_reports(self) -> AnyPath:
        """Folder of the drift reports of all days of the service."""
        return self.artifact_root / "drift_report"

    def drift_report(self, day: str) -> AnyPath:
        """Folder of the drift report of a day of the service."""
        return self.drift_reports / day

    def drift_reference(self, model_id: str) -> AnyPath:
        """What the predictions of a model are compared with."""
        return self.artifact_root / "drift_reference" / f"{model_id}.npz"

    def corrections(self, day: str) -> AnyPath:
        """The corrected images of a day, as the archive of a batch."""
        root = self.serving if self.profile == "local" else self.shared_root
        return root / "corrections" / f"corrections-{day}.zip"

    def training_summary(self, model_id: str) -> AnyPath:
        """Summary of the images that a model was trained on, which batches are compared with."""
        return self.artifact_root / "training_summary" / f"{model_id}.npz"

    def training_splits(self, model_id: str) -> AnyPath:
        """The splits as the model's training found them, in one file."""
        return self.artifact_root / "training_summary" / f"{model_id}.splits.parquet"

    def evaluation(self, model_id: str) -> AnyPath:
        """Folder of a model's metrics, plots and report."""
        return self.artifact_root / "evaluation" / model_id

    def onnx_model(self, model_id: str) -> AnyPath:
        """Folder of a model's ONNX export (`model.onnx`, `parity.json`)."""
        return self.artifact_root / "onnx_model" / model_id

    def quantized_model(self, model_id: str) -> AnyPath:
        """Folder of a model's int8 export (`model.onnx`, `quantization.json`)."""
        return self.artifact_root / "quantized_model" / model_id

    @property
    def training_settings(self) -> AnyPath:
        """The production settings of a training; a file to commit."""
        return self.shared_root / "configs" / "training.yaml"

    def sweep(self, sweep: str) -> AnyPath:
        """What a sweep tries."""
        return self.sweeps / f"{sweep}.json"

    @property
    def sweep_file(self) -> Path:
        """The sweep where none is named: the home's, or else the one that comes with the code."""
        own = self.home / "configs" / "sweep.yaml"
        return own if own.exists() else REPOSITORY / "configs" / "sweep.yaml"

    @property
    def sweeps(self) -> AnyPath:
        """Folder of what the registered sweeps try."""
        return self.artifact_root / "sweep"

    @property
    def sweep_trials(self) -> AnyPath:
        """Folder of the trials of all sweeps."""
        return self.artifact_root / "sweep_trial"

    def sweep_trial(self, trial: str) -> AnyPath:
        """The record of a trial of a sweep."""
        return self.sweep_trials / trial / "trial.json"

    @property
    def sweep_leaderboard(self) -> AnyPath:
        """One row per trial, the best first."""
        return self.artifact_root / "sweep_leaderboard.parquet"
