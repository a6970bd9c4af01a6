"""The application: routes, what stands before them, and the tasks that run beside them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel
from starlette.types import ASGIApp

from captcha_assets.serving.allowed_hosts import AllowedHosts, OfAllowedHost
from captcha_assets.serving.api_keys import ApiKeys, Authenticated
from captcha_assets.serving.health import health_routes
from captcha_assets.serving.open_inference import InferRequest, inference_routes
from captcha_assets.serving.prediction_api import prediction_routes
from captcha_assets.serving.problems import ProblemDetails, answer_with_problems
from captcha_assets.serving.request_limits import Limited
from captcha_assets.serving.request_metrics import Counted
from captcha_assets.serving.security_headers import SecurityHeaders
from captcha_assets.serving.service import Service
from captcha_assets.serving.web_page import page_routes
from captcha_assets.serving.web_page_api import logged_prediction_routes

TITLE = "captcha-assets"


def build_app(service: Service, keys: ApiKeys | None, hosts: AllowedHosts) -> ASGIApp:
    """Return the ASGI application of a service.

    Args:
        service: what answers.
        keys: who may ask; None for everybody.
        hosts: the names that the service is asked by.
    """
    # FastAPI's pages of documentation load scripts from other hosts; telemetry would hold bodies of requests.
    telemetry: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(
        title=TITLE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat what the request says its host is
        lifespan=_lifespan(service),
        telemetry=telemetry,
    )
    app.include_router(prediction_routes(service))
    app.include_router(inference_routes(service))
    app.include_router(health_routes(service))
    if service.settings.page:
        app.include_router(logged_prediction_routes(service))
        app.include_router(page_routes())
    answer_with_problems(app)
    app.openapi = lambda: _described(app, secured=keys is not None)  # type: ignore[method-assign]
    inner: ASGIApp = Limited(app, service.settings)
    if keys:
        inner = Authenticated(inner, keys)
    return Counted(SecurityHeaders(OfAllowedHost(inner, hosts)), service.metrics)


def _lifespan(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(service.batcher.run()),
            asyncio.create_task(service.champion.watch()),
            asyncio.create_task(service.watch_log()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if service.log:
                await asyncio.to_thread(service.log.close)

    return lifespan


def _described(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    """Return the OpenAPI description, with the bodies that routes read by themselves."""
    if app.openapi_schema is None:
        found = get_openapi(title=TITLE, version=version(TITLE), routes=app.routes)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for model in (ProblemDetails, InferRequest):
            schemas |= _schemas_of(model)
        if secured:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"key": []}]
        app.openapi_schema = found
    return app.openapi_schema


def _schemas_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}
