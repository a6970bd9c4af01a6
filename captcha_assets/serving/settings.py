"""Settings of the service: read once from `CAPTCHA_SERVING_<FIELD>`, validated, with a clear error."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from captcha_assets import settings_validation
from captcha_assets.models.quantization import Precision
from captcha_assets.paths import Paths

PREFIX = "CAPTCHA_SERVING_"
#: A name or an address without a port, as a Host header holds it.
_HOST = re.compile(r"\*|[\w.-]+|\[[0-9a-fA-F:.]+\]", re.ASCII)


class ServingSettings(BaseSettings):
    """Limits and policies of the service. Each field is read from `CAPTCHA_SERVING_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a database's address may hold a password
    )

    precision: Annotated[
        Precision,
        Field(description="fp32, or int8: the champion's quantized export where it is whole and passed."),
    ] = "fp32"
    threads: Annotated[
        int | None,
        Field(ge=1, le=256, description="Threads of onnxruntime; default the cores of the process."),
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="Most images in one call of the model.")] = 64
    queue_length: Annotated[
        int, Field(ge=1, description="Images that may wait; a request beyond is answered 429.")
    ] = 256
    deadline: Annotated[
        float, Field(gt=0, description="Seconds until a request that waits for the model is answered 504.")
    ] = 2.0
    max_images: Annotated[int, Field(ge=1, description="Most images in one request.")] = 64
    max_body: Annotated[
        int, Field(ge=1, description="Most bytes of a request's body; a larger one is answered 413.")
    ] = 4 << 20
    max_requests: Annotated[
        int, Field(ge=1, description="POST requests in progress; one beyond is answered 429.")
    ] = 512
    max_buffered: Annotated[
        int, Field(ge=1, description="Bytes of all bodies in progress; a request beyond is answered 429.")
    ] = 256 << 20
    max_connections: Annotated[
        int, Field(ge=1, description="Open connections; one beyond is closed at once.")
    ] = 1000
    read_timeout: Annotated[
        float,
        Field(gt=0, description="Seconds that a client may take to send a request's head, and its body."),
    ] = 10.0
    champion_interval: Annotated[
        float, Field(gt=0, le=5, description="Seconds between two reads of the champion from the registry.")
    ] = 1.0
    api_keys: Annotated[
        Path | None,
        Field(
            description="File with one API key a line, of 16 characters or more; default none: every client "
            "is answered."
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...] | None,
        NoDecode,
        Field(
            description="Names that a Host header may hold, comma separated, or *; default all, and on a "
            "loopback address without API keys those of this machine."
        ),
    ] = None
    page: Annotated[
        bool,
        Field(description="Whether there is a web page, and the routes that show what was logged."),
    ] = True
    prediction_log: Annotated[
        str | None,
        Field(
            description="sqlite:// or postgresql:// address of the log, or off; default a file of the home, "
            "or the database of the profile shared."
        ),
    ] = None
    prediction_log_buffer: Annotated[
        int, Field(ge=1, description="Predictions that may wait to be written; one beyond is dropped.")
    ] = 10_000
    prediction_log_sampling: Annotated[
        float, Field(ge=0, le=1, description="Share of the predictions that is logged.")
    ] = 1.0
    prediction_log_retention: Annotated[
        int | None,
        Field(ge=1, description="Days until a prediction without a correction is removed; default never."),
    ] = None

    @field_validator("prediction_log")
    @classmethod
    def _address_or_off(cls, address: str | None) -> str | None:
        if address is None or address == "off":
            return address
        wanted = "give sqlite:////absolute/path/of/a/file, postgresql://user:password@host/database, or off"
        name, separator, _ = address.partition("://")
        if not separator:
            raise ValueError(f"it is no database URL: {wanted}")
        if name.partition("+")[0] not in {"sqlite", "postgresql"}:
            raise ValueError(f"a prediction log cannot be kept in {name}: {wanted}")
        return address

    @field_validator("api_keys")
    @classmethod
    def _existing_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.expanduser().is_file():
            raise ValueError(f"{path} is not a file")
        return path and path.expanduser().absolute()

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _names_of_hosts(cls, names: Any) -> Any:
        if not isinstance(names, str):
            return names
        hosts = tuple(name.strip() for name in names.split(","))
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("give names or addresses without a port, separated by commas, or * for all")
        return hosts

    def prediction_log_at(self, paths: Paths) -> str | None:
        """Return the address of a home's prediction log; None where nothing is logged."""
        if self.prediction_log == "off":
            return None
        file = f"sqlite:///{paths.serving / 'predictions.db'}"
        return self.prediction_log or paths.shared_database or file

    @model_validator(mode="after")
    def _one_request_fits(self) -> "ServingSettings":
        if self.max_images > self.queue_length:
            raise ValueError(
                f"{PREFIX}MAX_IMAGES={self.max_images} images of one request never fit into "
                f"{PREFIX}QUEUE_LENGTH={self.queue_length}: lower the first or raise the second"
            )
        return self


def load_serving_settings(**overrides: Any) -> ServingSettings:
    """Read the settings of the service from the environment.

    Args:
        overrides: fields given explicitly; they win over the environment.

    Raises:
        SettingsError: a value cannot be used, or there is no such setting; the message names the variable.
    """
    fields = ServingSettings.model_fields
    settings_validation.check_variables(PREFIX, fields, never_empty=fields)
    with settings_validation.errors_name_their_variable(PREFIX, secrets={"prediction_log"}):
        return ServingSettings(**overrides)


def wanted_precision() -> str:
    """Return the precision that the service is to answer with, whatever its other settings are worth."""
    return os.environ.get(f"{PREFIX}PRECISION") or str(ServingSettings.model_fields["precision"].default)
