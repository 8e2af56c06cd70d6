# bivlm in an image: docker build -t bivlm .
#   docker run --rm -v "$PWD:/work" bivlm quantize path/to/model out
#   docker run --rm -v "$PWD:/work" -p 8000:8000 -e BIVLM_API_KEY=… bivlm serve out --host 0.0.0.0
# For a CUDA card: docker build -t bivlm:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 --build-arg EXTRAS=serve,gpu .
#   docker run --rm --gpus all …
FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/bivlm \
    && /opt/bivlm/bin/pip install --no-cache-dir torch --index-url "$TORCH_INDEX"
COPY . /source
RUN /opt/bivlm/bin/pip install --no-cache-dir "/source[$EXTRAS]" \
    && BIVLM_KERNEL=native /opt/bivlm/bin/bivlm doctor

FROM python:3.12-slim
# torch brings libgomp; the library of the kernels uses that one
COPY --from=build /opt/bivlm /opt/bivlm
ENV PATH=/opt/bivlm/bin:$PATH HF_HOME=/work/.cache/huggingface
RUN useradd --create-home --uid 1000 bivlm
USER 1000
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["bivlm"]
CMD ["--help"]
