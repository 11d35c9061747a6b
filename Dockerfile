# CPU:          docker build -t kimnet .
# NVIDIA GPUs:  docker build --build-arg EXTRAS=gpu -t kimnet:gpu .    run with --gpus all
# TPU VMs:      docker build --build-arg EXTRAS=tpu,gcs -t kimnet:tpu .    run with --privileged --net=host
#
#     docker run --rm -v "$PWD:/work" kimnet predict walk.mp4
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG EXTRAS=
WORKDIR /kimnet
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY data_pipelines data_pipelines
COPY kimnet_jax kimnet_jax
RUN pip install --no-cache-dir ".[detect,report${EXTRAS:+,}${EXTRAS}]" && rm -rf data_pipelines kimnet_jax build *.egg-info

RUN useradd --create-home kimnet
USER kimnet
WORKDIR /work
ENTRYPOINT ["kimnet"]
CMD ["--help"]
