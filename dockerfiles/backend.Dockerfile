# The prediction service: the exported champion behind HTTP; no orchestrator, no torch.
# From the repository's root:
#
#   docker build --file dockerfiles/backend.Dockerfile --tag captcha-assets-backend .
#   docker run --volume captcha:/var/lib/captcha-assets --publish 8000:8000 captcha-assets-backend
#
# Healthy says that the process lives; /v2/health/ready says whether a model answers.

FROM python:3.11.14-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
RUN uv venv .venv
# The dependencies first: this layer is the large one, and changes only with the lock. Each file is compared with its hash there.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml \
    --extra serving --extra object-store
COPY README.md ./
COPY captcha_assets captcha_assets
# The service reads no Parquet.
RUN uv pip uninstall pyarrow && uv pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="captcha-assets backend" \
    org.opencontainers.image.description="Serves the champion over HTTP" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --create-home captcha \
    && install --directory --owner=captcha --group=captcha /var/lib/captcha-assets
COPY --from=build /app/.venv /app/.venv
WORKDIR /var/lib/captcha-assets
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CAPTCHA_HOME=/var/lib/captcha-assets
USER 10001
VOLUME /var/lib/captcha-assets
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/live', timeout=4)"]
CMD ["captcha-assets", "serve", "--host", "0.0.0.0", "--port", "8000"]
