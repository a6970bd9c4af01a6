"""The routes for liveness, readiness and metrics."""

from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict

from captcha_assets.serving.open_inference import ServerMetadata
from captcha_assets.serving.problems import described
from captcha_assets.serving.service import Service

#: The paths that an orchestrator asks by any host, without an API key.
HEALTH_PATHS = {"/v2/health/live", "/v2/health/ready"}


class Readiness(BaseModel):
    """Whether a model answers, which, and what is wrong although one does."""

    model_config = ConfigDict(protected_namespaces=())

    ready: bool
    model_name: str
    model_version: str
    precision: str
    """fp32 or int8."""
    problem: str | None = None
    """Why the champion is not the model that answers, or not with the precision that is wanted, or why
    predictions are not logged."""


class Liveness(BaseModel):
    """That the service lives."""

    live: bool = True


def health_routes(service: Service) -> APIRouter:
    """Return `/v2`, `/v2/health/...` and `/metrics`."""
    router = APIRouter()
    server = ServerMetadata(
        name="captcha-assets", version=version("captcha-assets"), extensions=["binary_tensor_data"]
    )

    @router.get("/v2", tags=["open inference protocol"])
    async def metadata() -> ServerMetadata:
        """Return what the server is."""
        return server

    @router.get("/v2/health/live", tags=["open inference protocol"])
    async def live() -> Liveness:
        """Say that the service lives."""
        return Liveness()

    @router.get("/v2/health/ready", tags=["open inference protocol"], responses=described(503))
    async def ready() -> Readiness:
        """Say which model answers; 503 where none does."""
        model, champion = service.model(), service.champion
        problems = (champion.problem or champion.precision_problem, service.log_problem)
        return Readiness(
            ready=True,
            model_name=model.name,
            model_version=model.version,
            precision=model.precision,
            problem="; ".join(problem for problem in problems if problem) or None,
        )

    @router.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router
