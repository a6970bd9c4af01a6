"""Where things are kept: read once from the environment, validated, with a clear error.

Everything hangs off one *home* (`CAPTCHA_HOME`): two homes never touch each other.
"""

import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from upath import UPath

from captcha_assets import environment
from captcha_assets.environment import SettingsError
from captcha_assets.storage import AnyPath

__all__ = ["REPOSITORY", "Settings", "SettingsError", "load_settings"]

REPOSITORY = Path(__file__).resolve().parent.parent

_PREFIX = "CAPTCHA_"
#: Variables of the prefix that are no fields of `Settings`: what the command itself reads, and the service.
_OTHERS = {"API_KEY", "DEBUG", "SERVING_"}
_OWNER_AND_SLUG = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class Settings(BaseSettings):
    """Where one installation keeps its things. Each field is read from `CAPTCHA_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # one of them is a secret
    )

    home: Annotated[Path, Field(description="Folder of data/, artifacts/, inbox/ and .dagster/.")] = (
        REPOSITORY
    )
    artifacts: Annotated[
        str | None,
        NoDecode,
        Field(
            description="Folder or s3://, gs:// address of all that Dagster makes; default <home>/artifacts."
        ),
    ] = None
    dataset: Annotated[
        str | None,
        Field(description="module:name of a DatasetSpec; default the one of dataset.py."),
    ] = None
    kaggle_dataset: Annotated[
        str | None,
        Field(description="owner/slug of the Kaggle data set; default what the DatasetSpec names."),
    ] = None
    ui_url: Annotated[str, Field(description="Where the Dagster UI is; alerts link to it.")] = (
        "http://localhost:3000"
    )
    reports_url: Annotated[str, Field(description="Where `captcha-assets reports` serves the artifacts.")] = (
        "http://localhost:3001"
    )

    compute: Annotated[
        str, Field(description="Where trainings run: local, or ssh://[user@]host[:port]/absolute/folder.")
    ] = "local"
    compute_python: Annotated[
        str, Field(description="The Python of the machine that CAPTCHA_COMPUTE names: a name or a path.")
    ] = "python3"
    compute_ssh_config: Annotated[
        Path | None, Field(description="Configuration file of ssh, instead of the user's own.")
    ] = None

    alert_webhook: Annotated[
        SecretStr | None, Field(description="Address that alerts are posted to, in Slack's format.")
    ] = None
    retrain_new_images: Annotated[
        int,
        Field(ge=1, description="A training starts when so many new images reached the training split ..."),
    ] = 500
    retrain_new_share: Annotated[
        float, Field(ge=0, description="... and they are this share of those the last model was trained on.")
    ] = 0.05
    promotion_margin: Annotated[
        float,
        Field(ge=0, lt=1, description="A candidate must be shown to be less than this below the champion."),
    ] = 0.005
    promotion_level: Annotated[
        float, Field(gt=0, le=0.5, description="Level of the tests of a promotion.")
    ] = 0.05
    promotion_calibration_error: Annotated[
        float, Field(ge=0, le=1, description="Highest calibration error, unless the champion's is higher.")
    ] = 0.05
    promotion_latency: Annotated[
        float,
        Field(
            gt=0, description="Longest median CPU time for one image in ms, unless the champion's is longer."
        ),
    ] = 25.0

    @field_validator("home")
    @classmethod
    def _absolute_folder(cls, home: Path) -> Path:
        home = home.expanduser().resolve()
        if home.exists() and not home.is_dir():
            raise ValueError(f"{home} is not a folder")
        if set("?%") & set(str(home)):  # addresses of SQLite databases give them a meaning of their own
            raise ValueError("no folder may be used whose path holds ? or %: choose another one")
        return home

    @field_validator("artifacts")
    @classmethod
    def _folder_or_store(cls, artifacts: str | None, info: ValidationInfo) -> str:
        """Return an object store's address as it is, and a folder as an absolute path."""
        home = info.data.get("home", REPOSITORY)
        scheme, separator, place = (artifacts or "artifacts").rpartition("://")
        if not separator or scheme == "file":
            return str(home / Path(place).expanduser())
        if scheme not in {"s3", "gs"}:
            raise ValueError(f"{scheme}:// is not supported: give a folder, s3://... or gs://...")
        if not place.strip("/"):
            raise ValueError(f"name a bucket: {scheme}://<bucket>/<folder>")
        return f"{scheme}://{place.rstrip('/')}"

    @field_validator("kaggle_dataset")
    @classmethod
    def _owner_and_slug(cls, dataset: str | None) -> str | None:
        if dataset is not None and not _OWNER_AND_SLUG.fullmatch(dataset):
            raise ValueError("give owner/slug, the end of https://www.kaggle.com/datasets/owner/slug")
        return dataset

    @field_validator("ui_url", "reports_url")
    @classmethod
    def _address_of_a_server(cls, url: str) -> str:
        """Return the address without a slash at its end, so that a path can be appended."""
        if not _is_web_address(url) or urlsplit(url).query or urlsplit(url).fragment:
            raise ValueError("give http://host[:port] or https://host[:port]")
        return url.rstrip("/")

    @field_validator("alert_webhook")
    @classmethod
    def _address_to_post_to(cls, webhook: SecretStr | None) -> SecretStr | None:
        if webhook is not None and not _is_web_address(webhook.get_secret_value()):
            raise ValueError("give an address that begins with https:// or http://, and names a host")
        return webhook

    @field_validator("compute")
    @classmethod
    def _here_or_a_machine(cls, compute: str) -> str:
        if compute == "local":
            return compute
        wanted = "give local, or ssh://[user@]host[:port]/absolute/folder"
        try:
            parts = urlsplit(compute)
            named = (parts.hostname, parts.port != 0, parts.path.strip("/"))
        except ValueError as error:
            raise ValueError(f"{error}: {wanted}") from error
        if parts.scheme != "ssh" or not all(named) or parts.query or parts.fragment:
            raise ValueError(wanted)
        if parts.password is not None:
            raise ValueError("a password is never taken: ssh asks for a key")
        if any(name.startswith("-") for name in (parts.hostname or "", parts.username or "")):
            raise ValueError(f"no name begins with a dash: {wanted}")
        return compute

    @field_validator("compute_ssh_config")
    @classmethod
    def _existing_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.expanduser().is_file():
            raise ValueError(f"{path} is not a file")
        return path and path.expanduser().absolute()

    def with_kaggle_dataset(self, default: str | None) -> "Settings":
        """Return these settings with the data set's own name on Kaggle, where they give none."""
        return self.model_copy(update={"kaggle_dataset": self.kaggle_dataset or default})

    @property
    def raw(self) -> Path:
        """Folder of the archives exactly as delivered, `<batch>.zip` each. DVC tracks its parent."""
        return self.home / "data" / "raw"

    @property
    def split_assignments(self) -> Path:
        """Folder of the record of split assignments. DVC tracks its parent."""
        return self.home / "data" / "splits"

    @property
    def inbox(self) -> Path:
        """Folder that is watched for new batches."""
        return self.home / "inbox"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance."""
        return self.home / ".dagster"

    @property
    def scratch(self) -> Path:
        """Folder of work in progress on this machine's own disk: checkpoints, half-done downloads."""
        return self.home / ".scratch"

    @cached_property
    def artifact_root(self) -> UPath:
        """Root of all that Dagster makes: a local folder or an object store."""
        place = str(self.artifacts)
        # A listing remembered from before would hide what another process has stored since.
        return UPath(place, use_listings_cache=False) if "://" in place else UPath(place)

    def public_url(self, path: AnyPath) -> str:
        """Address of an artifact as the report server shows it."""
        return f"{self.reports_url}/{PurePosixPath(str(path)).relative_to(str(self.artifact_root))}"

    @property
    def registrations(self) -> UPath:
        """Folder of the registrations: where each batch comes from."""
        return self.artifact_root / "deliveries"

    def registration(self, batch: str) -> UPath:
        """Where one batch comes from."""
        return self.registrations / f"{batch}.json"

    def image_table(self, batch: str) -> UPath:
        """One row per usable image of a batch."""
        return self.artifact_root / "image_table" / f"{batch}.parquet"

    def rejected_images(self, batch: str) -> UPath:
        """One row per rejected member of a batch."""
        return self.artifact_root / "rejected_images" / f"{batch}.parquet"

    def validation_results(self, table: str, batch: str | None = None) -> UPath:
        """Folder of the validation results of a table, or of one batch's part of it, and their report."""
        root = self.artifact_root / "quality" / table
        return root / batch if batch else root

    @property
    def data_docs(self) -> UPath:
        """Folder of Great Expectations' own site."""
        return self.artifact_root / "data_docs"

    @property
    def image_index(self) -> UPath:
        """One row per distinct image over all batches."""
        return self.artifact_root / "image_index.parquet"

    @property
    def splits(self) -> UPath:
        """The split of every image: image id, label, group, split, batch."""
        return self.artifact_root / "splits.parquet"

    @property
    def models(self) -> UPath:
        """The registry: one folder per model, the candidate and champion pointers, the history."""
        return self.artifact_root / "models"

    @property
    def alerts(self) -> Path:
        """Where alerts are noted, one JSON object a line."""
        return self.home / "alerts.jsonl"

    @property
    def label_decisions(self) -> Path:
        """What somebody decided about images whose labels contradict each other; a file to commit."""
        return self.home / "label_decisions.csv"

    @property
    def label_conflicts(self) -> UPath:
        """Every image whose labels contradict each other, as decisions that are still to be made."""
        return self.artifact_root / "label_conflicts.csv"

    def training_summary(self, model_id: str) -> UPath:
        """Summary of the images that a model was trained on, which batches are compared with."""
        return self.artifact_root / "training_summary" / f"{model_id}.npz"

    def training_splits(self, model_id: str) -> UPath:
        """The splits as the model's training found them."""
        return self.artifact_root / "training_summary" / f"{model_id}.splits.parquet"

    def evaluation(self, model_id: str) -> UPath:
        """Folder of a model's metrics, plots and report."""
        return self.artifact_root / "evaluation" / model_id

    def onnx_model(self, model_id: str) -> UPath:
        """Folder of a model's ONNX export (`model.onnx`, `parity.json`)."""
        return self.artifact_root / "onnx_model" / model_id

    @property
    def training_settings(self) -> Path:
        """The production settings of a training; a file to commit."""
        return self.home / "configs" / "training.yaml"

    def sweep(self, sweep: str) -> UPath:
        """What a sweep tries."""
        return self.sweeps / f"{sweep}.json"

    @property
    def sweep_file(self) -> Path:
        """The sweep where none is named: the home's, or else the one that comes with the code."""
        own = self.home / "configs" / "sweep.yaml"
        return own if own.exists() else REPOSITORY / "configs" / "sweep.yaml"

    @property
    def sweeps(self) -> UPath:
        """Folder of what the registered sweeps try."""
        return self.artifact_root / "sweep"

    @property
    def sweep_trials(self) -> UPath:
        """Folder of the trials of all sweeps."""
        return self.artifact_root / "sweep_trial"

    def sweep_trial(self, trial: str) -> UPath:
        """What became of a trial of a sweep."""
        return self.sweep_trials / trial / "trial.json"

    @property
    def sweep_leaderboard(self) -> UPath:
        """One row per trial, the best first."""
        return self.artifact_root / "sweep_leaderboard.parquet"


def _is_web_address(url: str) -> bool:
    """Say whether `url` is an http or https address of a host."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, an open bracket
        return False
    return parts.scheme in {"http", "https"} and bool(named) and not re.search(r"\s", url)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    Args:
        overrides: fields given explicitly; they win over the environment.

    Raises:
        SettingsError: a value cannot be used, or there is no such setting; the message names the variable.
    """
    return environment.load(Settings, overrides, others=_OTHERS, secrets={"alert_webhook"})
