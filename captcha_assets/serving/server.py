"""The process of the service: its socket, uvicorn, and how it ends."""

import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.paths import Paths
from captcha_assets.serving.allowed_hosts import allowed_hosts
from captcha_assets.serving.api_keys import read_api_keys
from captcha_assets.serving.app import build_app
from captcha_assets.serving.champion_reloader import Alert, ChampionReloader
from captcha_assets.serving.prediction_log import PredictionLog, open_prediction_log
from captcha_assets.serving.service import Service
from captcha_assets.serving.settings import ServingSettings
from captcha_assets.serving.uvicorn_connection import connection_class

#: Seconds that requests in progress have when the service is stopped.
GRACE = 10
#: Seconds that an idle connection is kept.
IDLE = 15


class ServiceError(RuntimeError):
    """The service cannot be started; the message says what to do."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        ServiceError: the port is taken, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ServiceError(
            f"the service cannot listen on port {port} of {host} ({error.strerror}): stop what uses "
            "the port, or choose another one with --port or --host"
        ) from error
    listener.set_inheritable(True)
    return listener


def serve(
    settings: ServingSettings,
    listener: socket.socket,
    spec: DatasetSpec,
    *,
    paths: Paths,
    models: AnyPath,
    exports: AnyPath,
    quantized: AnyPath,
    corrections_in_batch: int,
    alert: Alert,
    announce: Callable[[], None],
    say: Callable[[str], object],
) -> None:
    """Serve the champion until the process is interrupted.

    Args:
        settings: limits and policies.
        listener: what `listen` returned.
        spec: the data set.
        paths: of the home, where the prediction log is if no other address is set.
        models: folder or address of the registry.
        exports: folder or address of the exports, `<model id>/` each.
        quantized: folder or address of the int8 exports, `<model id>/` each.
        corrections_in_batch: so many corrections become batches, as the settings of the home say.
        alert: sends an alert about a champion that cannot be loaded, or a log that cannot be used.
        announce: is called when everything is checked, before the first request.
        say: is given one line each time that another model answers.

    Raises:
        SettingsError: the file of the API keys cannot be used.
        PredictionLogUrlError: the address of the prediction log cannot be used.
    """
    keys = read_api_keys(settings.api_keys) if settings.api_keys else None
    hosts = allowed_hosts(settings.allowed_hosts, listener.getsockname()[0], has_keys=bool(keys))
    champion = ChampionReloader(
        models,
        exports,
        spec,
        alert,
        quantized=quantized if settings.precision == "int8" else None,
        threads=settings.threads,
        interval=settings.champion_interval,
        say=say,
    )
    _raise_limit_of_files(settings.max_connections)
    service = Service(settings, champion, _log(settings, paths), alert, corrections_in_batch)
    server = _server(settings, build_app(service, keys, hosts))
    announce()
    server.run(sockets=[listener])


def _server(settings: ServingSettings, app: ASGIApp) -> uvicorn.Server:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the answer says what is wrong with a form
    config = uvicorn.Config(
        app,
        http=connection_class(settings.read_timeout, settings.max_connections),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


def _log(settings: ServingSettings, paths: Paths) -> PredictionLog | None:
    url = settings.prediction_log_at(paths)
    if url is None:
        return None
    return open_prediction_log(
        url,
        buffer=settings.prediction_log_buffer,
        sampling=settings.prediction_log_sampling,
        retention_days=settings.prediction_log_retention,
    )


def _raise_limit_of_files(connections: int) -> None:
    """Allow as many open files as there may be connections, and some more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # the limit that is stays
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
            )
