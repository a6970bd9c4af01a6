"""What an installation decides: read once from the environment, validated, with a clear error."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from captcha_assets import settings_validation
from captcha_assets.atomic_files import AnyPath, path_of
from captcha_assets.paths import REPOSITORY, Paths, folder_or_store
from captcha_assets.project import Project, other_project, project
from captcha_assets.settings_validation import SettingsError

__all__ = ["Settings", "SettingsError", "load_settings"]

_PREFIX = "CAPTCHA_"
#: Variables of the prefix that are no fields of `Settings`: what the command itself reads, and the service.
_OTHERS = {"API_KEY", "SERVING_"}
#: Settings that protect: an empty value, such as that of a shell's unset variable, does not turn them off.
_PROTECTIVE = {"alert_webhook", "rollback"}
#: Where trainings run that are containers: a namespace of Kubernetes, or a project and a region of Vertex AI.
_CLUSTER = re.compile(
    r"k8s://[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|vertex://[a-z][a-z0-9-]+/[a-z0-9-]+", re.ASCII
)
#: Name of a container image: registry with port, path, tag, digest.
_IMAGE = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", re.ASCII)
_NAME_IN_KUBERNETES = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_OWNER_AND_SLUG = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class Settings(BaseSettings):
    """Policies of one installation, and its paths. Each field is read from `CAPTCHA_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # one of them is a secret
    )

    paths: Paths = Field(default_factory=Paths)
    dataset: Annotated[
        str | None,
        Field(
            description="module:NAME of a DatasetSpec; every command imports, and so executes, the module; "
            "default the one of dataset.py."
        ),
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

    debug: Annotated[
        bool, Field(description="Whether a traceback is shown with every error of captcha-assets: 1 or 0.")
    ] = False

    compute: Annotated[
        str,
        Field(
            description="Where trainings run: local, the address of Ray's job API, http://host:8265, where "
            "in the profile shared the batches of a backfill run too, k8s://namespace, or "
            "vertex://project/region."
        ),
    ] = "local"
    compute_store: Annotated[
        str | None,
        Field(
            description="Folder or s3://, gs:// address that the nodes of the cluster reach too, for the "
            "files of a training; default .ray in the artifacts' object store, or else <home>/.scratch/ray."
        ),
    ] = None
    compute_image: Annotated[
        str | None,
        Field(description="Image of dockerfiles/training.Dockerfile that Kubernetes or Vertex AI starts."),
    ] = None
    compute_service_account: Annotated[
        str | None,
        Field(description="Service account that a training has on Kubernetes or Vertex AI; default theirs."),
    ] = None
    compute_secret: Annotated[
        str | None,
        Field(description="Kubernetes Secret whose keys are environment variables of a training."),
    ] = None
    compute_num_cpus: Annotated[
        int,
        Field(ge=1, le=4096, description="CPUs of a node that a training or a batch reserves: its threads."),
    ] = 1
    compute_num_gpus: Annotated[
        int,
        Field(
            ge=0,
            le=64,
            description="Most GPUs of a node that a training with accelerator auto reserves; one with "
            "gpu reserves as many as its devices.",
        ),
    ] = 0

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
    retrain_corrections: Annotated[
        int, Field(ge=1, description="Where served predictions drift, so many corrections start a training.")
    ] = 100
    corrections_in_batch: Annotated[
        int, Field(ge=1, description="Corrections become batches as soon as so many of them are in none.")
    ] = 50
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

    rollback: Annotated[
        Literal["off", "answered", "predictions"],
        Field(
            description="Whether a champion that is worse by corrections than the one before is rolled back: "
            "off; answered or predictions: what its wrong predictions are a share of."
        ),
    ] = "off"
    rollback_level: Annotated[
        float, Field(gt=0, le=0.5, description="Probability of rolling back a champion that is no worse.")
    ] = 0.01
    rollback_images: Annotated[
        int, Field(ge=1, description="Fewer images of one of the two champions prove nothing.")
    ] = 100

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
        if "@" in urlsplit(url).netloc:  # it stands in alerts and in the metadata of runs
            raise ValueError("leave the user and the password out: give http://host[:port]")
        return url.rstrip("/")

    @field_validator("alert_webhook")
    @classmethod
    def _address_to_post_to(cls, webhook: SecretStr | None) -> SecretStr | None:
        if webhook is not None and not _is_web_address(webhook.get_secret_value()):
            raise ValueError("give an address that begins with https:// or http://, and names a host")
        return webhook

    @field_validator("compute")
    @classmethod
    def _here_or_a_cluster(cls, compute: str) -> str:
        if compute == "local" or _CLUSTER.fullmatch(compute):
            return compute
        wanted = (
            "give local, the address of Ray's job API, http://host:8265, k8s://namespace, or "
            "vertex://project/region"
        )
        if compute.startswith("ssh://"):
            raise ValueError(
                "trainings on another machine run on a Ray cluster: run `ray start --head` there, and "
                "give http://host:8265"
            )
        if compute.startswith("ray://"):
            raise ValueError(f"ray:// is the address of Ray Client: {wanted}")
        if not _is_web_address(compute) or urlsplit(compute).query or urlsplit(compute).fragment:
            raise ValueError(wanted)
        if urlsplit(compute).username is not None:
            raise ValueError("a name or password is never taken: Ray's token is RAY_AUTH_TOKEN")
        return compute.rstrip("/")

    @field_validator("compute_store")
    @classmethod
    def _folder_of_the_home_or_store(cls, store: str | None, info: ValidationInfo) -> str | None:
        paths = info.data.get("paths")
        if paths is None:
            return None
        used = str(paths.artifacts) if store is None else folder_or_store(store, paths.home)
        if _is_cluster(info) and "://" not in used:
            raise ValueError(
                "trainings on Kubernetes or Vertex AI need an object store: give s3://<bucket>/<folder> or "
                "gs://<bucket>/<folder>"
            )
        return None if store is None else used

    @field_validator("compute_image")
    @classmethod
    def _image_to_start(cls, image: str | None, info: ValidationInfo) -> str | None:
        if image is None and _is_cluster(info):
            raise ValueError(
                "trainings on Kubernetes or Vertex AI need an image: give that of "
                "dockerfiles/training.Dockerfile, registry/captcha-assets-training:version"
            )
        if image is not None and not _IMAGE.fullmatch(image):
            raise ValueError("give the name of an image, registry/captcha-assets-training:version")
        return image

    @field_validator("compute_secret")
    @classmethod
    def _secret_of_kubernetes(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is not None and not _NAME_IN_KUBERNETES.fullmatch(secret):
            raise ValueError("give the name of a Secret: small letters, digits, - and .")
        if secret is not None and info.data.get("compute", "").startswith("vertex://"):
            raise ValueError("only Kubernetes has Secrets: a job of Vertex AI has the rights of its account")
        return secret

    @field_validator("compute_service_account")
    @classmethod
    def _account_of_the_cluster(cls, account: str | None, info: ValidationInfo) -> str | None:
        kubernetes = info.data.get("compute", "").startswith("k8s://")
        if account is not None and kubernetes and not _NAME_IN_KUBERNETES.fullmatch(account):
            raise ValueError("give the name of a ServiceAccount: small letters, digits, - and .")
        return account

    @property
    def staging_store(self) -> AnyPath:
        """Where the files of a training lie while a cluster works on it."""
        if self.compute_store is not None:
            return path_of(self.compute_store)
        root = self.paths.artifact_root
        return self.paths.scratch / "ray" if isinstance(root, Path) else root / ".ray"

    def with_kaggle_dataset(self, default: str | None) -> "Settings":
        """Return these settings with the data set's own name on Kaggle, where they give none."""
        return self.model_copy(update={"kaggle_dataset": self.kaggle_dataset or default})

    def public_url(self, path: AnyPath) -> str:
        """Address of an artifact as the report server shows it."""
        return f"{self.reports_url}/{PurePosixPath(str(path)).relative_to(str(self.paths.artifact_root))}"


def _is_cluster(info: ValidationInfo) -> bool:
    """Say whether trainings are containers of Kubernetes or Vertex AI."""
    return _CLUSTER.fullmatch(info.data.get("compute", "")) is not None


def _is_web_address(url: str) -> bool:
    """Say whether `url` is an http or https address of a host."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, an open bracket
        return False
    return parts.scheme in {"http", "https"} and bool(named) and not re.search(r"\s", url)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; a project that the working directory belongs to is the home.

    Args:
        overrides: fields given explicitly, those of `Paths` too; they win over the environment.

    Raises:
        SettingsError: a value cannot be used, or there is no such setting; the message names the variable.
        ProjectError: the project's `pyproject.toml` cannot be used.
    """
    fields = (Settings.model_fields.keys() | Paths.model_fields.keys()) - {"paths"}
    settings_validation.check_variables(_PREFIX, fields, _OTHERS, never_empty=_PROTECTIVE)
    kept = {name: overrides.pop(name) for name in Paths.model_fields if name in overrides}
    with settings_validation.errors_name_their_variable(_PREFIX, secrets={"alert_webhook", "database"}):
        own = project()
        if "home" not in kept and not os.environ.get("CAPTCHA_HOME"):
            kept["home"] = _default_home(own)
        settings = Settings(paths=Paths(**kept), **overrides)
    return settings if own is None else _of_project(settings, own)


def _default_home(own: Project | None) -> Path:
    """Return the home where none is named: the project, or else the checkout of the code."""
    if own is None and not (REPOSITORY / "pyproject.toml").exists():
        raise SettingsError(
            "CAPTCHA_HOME is not set, and this folder belongs to no project: set it, or change to the folder "
            "of a project (captcha-assets new PATH makes one)"
        )
    if own is not None:
        return own.folder
    other = other_project()
    if other is not None and other.parent != REPOSITORY:
        raise SettingsError(
            f"CAPTCHA_HOME is not set, and {other} is of a Dagster project whose data sets have homes of "
            "their own: set it to one of them"
        )
    return REPOSITORY


def _of_project(settings: Settings, own: Project) -> Settings:
    """Return the settings with the data set of the project."""
    if settings.dataset not in {None, own.dataset}:
        raise SettingsError(
            f"CAPTCHA_DATASET={settings.dataset!r} cannot be used in {own.folder}, whose pyproject.toml "
            f"names {own.dataset}: unset it, or change to another folder"
        )
    return settings.model_copy(update={"dataset": own.dataset})
