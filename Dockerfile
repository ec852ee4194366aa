# The trainer and its readers of stores and pictures; stores, runs and images are mounted:
#   docker build -t realmix .
#   docker run --rm --gpus all --shm-size 1g -v "$PWD:/work" realmix --store stores/cifar10_250
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=wheel /wheels /wheels
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[cloud,predict,onnx,backbones]" \
    && useradd --uid 10001 --create-home realmix
USER 10001
WORKDIR /work
ENTRYPOINT ["realmix-train"]
CMD ["--help"]
