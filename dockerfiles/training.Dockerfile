# The training process: no orchestrator, no data frames; it reads a job file and writes a model folder.
# From the repository's root:
#
#   docker build --file dockerfiles/training.Dockerfile --tag captcha-assets-training .
#   docker run --gpus all --shm-size 1g --volume "$PWD/job:/job" captcha-assets-training /job/job.json
#
# The same with Ray, a node of a cluster: --build-arg EXTRA=ray-node --tag captcha-assets-ray-node
# torch brings the CUDA libraries it needs, so the base image has none; the host brings the driver.

FROM python:3.11.14-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
ARG EXTRA=training
RUN uv venv .venv
# The dependencies first: this layer is the large one, and changes only with the lock. Each file is compared with its hash there.
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --require-hashes --constraint requirements.lock --requirement pyproject.toml \
    --extra "${EXTRA}" --extra object-store
COPY README.md ./
COPY captcha_assets captcha_assets
RUN uv pip install --no-deps .

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="captcha-assets training" \
    org.opencontainers.image.description="Trains a model from a job file on CPU or GPU" \
    org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --create-home captcha
COPY --from=build /app/.venv /app/.venv
WORKDIR /home/captcha
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
# A job that runs and ends: its exit status says how it went.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "captcha_assets.training"]
