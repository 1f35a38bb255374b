# Runs `vatt demo` on the CPU and writes its results to ./runs:
#   docker build --tag vatt .
#   docker run --rm --volume "$PWD/runs:/vatt/runs" vatt
# Other commands: docker run --rm vatt doctor
# Not executed yet; tests/test_project_files.py checks it statically.
FROM python:3.12-slim

# Optional: the package index of PyTorch's CPU builds, for a smaller image without CUDA libraries.
ARG PIP_EXTRA_INDEX_URL

COPY . /source
RUN pip install --no-cache-dir "/source[all]" && rm -r /source

WORKDIR /vatt
ENTRYPOINT ["vatt"]
CMD ["demo"]
