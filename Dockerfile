# The tested environment in a container: Debian 12's Python 3.11, and in it what `make setup` builds.
#
#     docker build -t msbreg .
#     docker run --rm --shm-size 8g -v "$PWD/runs:/opt/msbreg/runs" msbreg make demo
#     apptainer build msbreg.sif docker-daemon://msbreg:latest            # for a cluster without Docker
#
# CUDA: PyTorch's wheels bring CUDA's libraries, so this image needs only the driver of the machine that it runs on:
#     docker run --gpus all …        apptainer exec --nv msbreg.sif …
# Code that is compiled against CUDA (Detectron2) needs its compiler too; begin from that image instead:
#     docker build --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 -t msbreg .
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/msbreg
# What decides the environment first: it is built again only when these change.
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
RUN make setup && rm -rf /root/.cache
COPY . .
RUN touch .venv/ready
ENV PATH=/opt/msbreg/.venv/bin:$PATH PYTHONPATH=/opt/msbreg
CMD ["python", "-m", "transfer", "doctor"]
