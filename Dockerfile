# Two images from one file: `--target cpu` (the default) and `--target gpu`.
# Each build stage makes an environment from a hash-pinned lock; the final stages copy it and add nothing that builds.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN python -m venv --without-pip venv
COPY service service
# By content, not by time: the file system may be read-only and COPY may change times.
RUN python -m compileall -q --invalidation-mode unchecked-hash service

FROM build AS build-cpu
COPY requirements/cpu.lock requirements/extras.lock ./
RUN python -m pip --python venv/bin/python install --require-hashes -r cpu.lock -r extras.lock \
    && python -m pip --python venv/bin/python uninstall --yes setuptools

FROM build AS build-gpu
COPY requirements/gpu.lock requirements/extras.lock ./
RUN python -m pip --python venv/bin/python install --require-hashes -r gpu.lock -r extras.lock \
    && python -m pip --python venv/bin/python uninstall --yes setuptools


FROM python:3.11-slim-bookworm AS runtime
WORKDIR /app
ENV PATH=/app/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    BERTIE_HOST=0.0.0.0 \
    BERTIE_OPS_PORT=8081
# The API; health and metrics, which no flood on the first one keeps waiting.
EXPOSE 8000 8081
# Amazon SageMaker may say at which port it asks (SAGEMAKER_BIND_TO_PORT); it starts the image as `serve`.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
# A number, so that an orchestrator can see it isn't root. The root may be mounted read-only, with a tmpfs on /tmp: there
# the weights are copied while they are opened, so that no change to their files can reach a running service.
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys\n\
port = os.environ.get('BERTIE_OPS_PORT') or os.environ.get('BERTIE_PORT') or 8000\n\
connection = http.client.HTTPConnection('127.0.0.1', int(port), timeout=2)\n\
connection.request('GET', '/health/ready')\n\
sys.exit(connection.getresponse().status != 200)"]
# exec form: SIGTERM reaches Python, which drains what it admitted and exits.
ENTRYPOINT ["python", "-m", "service"]

FROM runtime AS gpu
# What the NVIDIA container toolkit mounts: the driver. The CUDA libraries come from the lock.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility BERTIE_DEVICE=cuda
COPY --from=build-gpu /app/venv venv
COPY LICENSE .
COPY models models
COPY --from=build-gpu /app/service service

FROM runtime AS cpu
ENV BERTIE_DEVICE=cpu
COPY --from=build-cpu /app/venv venv
COPY LICENSE .
COPY models models
COPY --from=build-cpu /app/service service
