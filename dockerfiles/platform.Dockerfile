# The platform: Dagster's webserver, or by command its daemon, with everything the assets need.
# From the repository's root:
#
#   docker build --file dockerfiles/platform.Dockerfile --tag captcha-assets-platform .
#   docker run --volume captcha:/var/lib/captcha-assets --publish 3000:3000 captcha-assets-platform
#   docker run --volume captcha:/var/lib/captcha-assets --no-healthcheck captcha-assets-platform \
#       dagster-daemon run --workspace workspace.yaml

FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
RUN uv venv .venv
# The dependencies first: this layer is the large one, and changes only with the lock.
COPY pyproject.toml requirements.lock ./
RUN uv pip install --constraint requirements.lock --requirement pyproject.toml \
    --extra platform --extra s3 --extra postgres
COPY README.md ./
COPY captcha_assets captcha_assets
# Editable: Dagster finds defs/ by the project file beside the package.
RUN uv pip install --no-deps --editable .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="captcha-assets platform" \
    org.opencontainers.image.description="Dagster's webserver and daemon with the captcha_assets code location" \
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
