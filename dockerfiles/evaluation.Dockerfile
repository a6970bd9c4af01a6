# The code location that executes every run, the evaluation and the export of models included: the platform with torch.
# From the repository's root:
#
#   docker build --file dockerfiles/evaluation.Dockerfile --tag captcha-assets-evaluation .
#   docker run --volume captcha:/var/lib/captcha-assets --publish 4000:4000 captcha-assets-evaluation
#   docker run --volume captcha:/var/lib/captcha-assets --no-healthcheck captcha-assets-evaluation \
#       captcha-assets model evaluate champion

FROM python:3.11.14-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
RUN uv venv .venv
# The dependencies first: this layer is the large one, and changes only with the lock. Each file is compared with its hash there.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml \
    --extra platform --extra object-store --extra postgres --extra ray --extra k8s --extra vertex
COPY README.md ./
COPY captcha_assets captcha_assets
# Editable: Dagster finds defs/ by the project file beside the package.
RUN uv pip install --no-deps --editable .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="captcha-assets evaluation" \
    org.opencontainers.image.description="Executes runs: evaluation, export, drift, tables; submits trainings" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --create-home captcha \
    && install --directory --owner=captcha --group=captcha /var/lib/captcha-assets/.dagster
COPY --from=build /app /app
WORKDIR /app
COPY workspace.yaml ./
COPY configs configs
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CAPTCHA_HOME=/var/lib/captcha-assets \
    DAGSTER_HOME=/var/lib/captcha-assets/.dagster
USER 10001
VOLUME /var/lib/captcha-assets
EXPOSE 4000
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s \
    CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
CMD ["dagster", "code-server", "start", "--host", "0.0.0.0", "--port", "4000", \
    "--module-name", "captcha_assets.definitions", "--location-name", "captcha_assets"]
