# docker build --target cpu -t sbm .        docker build --target cuda -t sbm-cuda .        (docs/install.md)
FROM python:3.12-slim AS base
WORKDIR /src
COPY pyproject.toml README.md LICENSE checkpoints.json constraints.txt ./
COPY sbm_cli sbm_cli
# For whichever user it is run by: models and compiled kernels.
RUN mkdir -m 1777 /cache
ENV HF_HOME=/cache/huggingface NUMBA_CACHE_DIR=/cache/numba TRITON_CACHE_DIR=/cache/triton
VOLUME /cache
ENTRYPOINT ["sbm"]

FROM base AS cuda
# Triton compiles the launchers of its kernels with a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir -c constraints.txt .
WORKDIR /work
USER nobody

FROM base AS cpu
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt .
WORKDIR /work
USER nobody
