# The platform: Dagster's webserver, or by command its daemon or a code location; all that needs no torch.
# The runs of a code location are executed where it is: take the image `evaluation` for one that evaluates and exports models.
# From the repository's root:
#
#   docker build --file dockerfiles/platform.Dockerfile --tag captcha-assets-platform .
#   docker run --volume captcha:/var/lib/captcha-assets --publish 3000:3000 captcha-assets-platform
#   docker run --volume captcha:/var/lib/captcha-assets --no-healthcheck captcha-assets-platform \
#       dagster-daemon run --workspace workspace.yaml

FROM python:3.11.14-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
RUN uv venv .venv
# The dependencies first: this layer is the large one, and changes only with the lock. Each file is compared with its hash there.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml \
    --extra orchestration --extra onnx --extra object-store --extra postgres --extra k8s
COPY README.md ./
COPY captcha_assets captcha_assets
# Editable: Dagster finds defs/ by the project file beside the package.
RUN uv pip install --no-deps --editable .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="captcha-assets platform" \
    org.opencontainers.image.description="Dagster's webserver, daemon and code location, without torch" \
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
EXPOSE 3000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/server_info', timeout=4)"]
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "workspace.yaml"]
