# Two commands are the whole set-up: `make demo` and `make test`. Both make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev
BENCH := .venv/.ready-bench
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# torch's own kernels and compiled code without vectors, oneDNN's with the oldest; one thread, where `make test` has two or more
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1
# tests of commands and pages, which compute nothing that other instructions would change
COMMANDS := boards cli compare damaged_runs report reproduce
# what building FFCV, an extra that the tests need, takes from the system
SYSTEM := pkg-config libturbojpeg0-dev libopencv-dev g++ python3-dev

PHOTOS := .venv/.ready-photos
.PHONY: demo demo-photos test test-isa soak lint docs format wheel system clean bench bench-build bench-read bench-step

demo: $(READY)          ## build the digits store, train the baseline and RealMix from it, print their table and draw it
	$(BIN)/realmix-data build digits --copies 50
	$(BIN)/realmix-train reproduce digits --row Supervised --row RealMix --train-seeds 1,2

demo-photos: $(PHOTOS)   ## draw pictures, embed them with a pretrained network, and ask whether the unlabelled ones help
	$(BIN)/python examples/drawn_photos.py runs/photos
	$(BIN)/realmix-data build folder runs/photos/train --test runs/photos/test --size 96 --copies 6 --labels 25 --name photos
	$(BIN)/realmix-data split stores/photos --labels 25 --split-seed 2
	$(BIN)/realmix-data split stores/photos --labels 25 --split-seed 3
	$(BIN)/realmix-data embed stores/photos --backbone timm:tf_efficientnet_lite0 --weights runs/photos/lite0.safetensors --size 96 --name lite0
	$(BIN)/realmix-train compare stores/photos_25 --embeddings lite0 --methods probe,label_spreading,mixmatch --steps 500 --seeds 1-3

test test-isa: export PYTHONDONTWRITEBYTECODE =
test: $(DEV)          ## every test; hundreds of processes import torch, so what Python compiles is kept whatever is set
	$(PYTEST)

test-isa: $(DEV)       ## the trainer's tests as on the plainest processor: other instructions, so other rounding; one thread
	$(PLAIN) $(PYTEST) tests/trainer $(COMMANDS:%=--ignore=tests/trainer/test_%.py)

soak: $(DEV)           ## the long half of the fault injection: minutes to an hour; SOAK="--kills 100 --every 10" chooses
	PYTHONPATH=tests:tests/pipeline $(BIN)/python -W error tests/soak/soak.py $(SOAK)

bench-build: $(DEV)     ## speed and size of builds against other tools; IMAGES=stores/cifar10 takes a store's images, SIZE=224 synthetic ones of this size
	$(BIN)/python benchmarks/build.py $(if $(IMAGES),--images $(IMAGES)) $(if $(SIZE),--size $(SIZE))
	$(BIN)/python benchmarks/layouts.py $(if $(IMAGES),--images $(IMAGES)) $(if $(SIZE),--size $(SIZE))

bench-read: $(BENCH)     ## shuffled reading against FFCV, DataLoader, WebDataset, MosaicML Streaming and zarr; IMAGES and SIZE as above, COPIES=50 with photographs
	$(BIN)/python benchmarks/reading.py $(if $(IMAGES),--images $(IMAGES)) $(if $(SIZE),--size $(SIZE)) $(if $(COPIES),--copies $(COPIES))

bench-step: $(BENCH)     ## a training step against its limit and, with PORT=MixMatch-pytorch, a PyTorch port; strong views; scaling
	$(BIN)/python benchmarks/step.py $(if $(IMAGES),--images $(IMAGES)) $(if $(PORT),--port $(PORT))
	$(BIN)/python benchmarks/policies.py $(if $(IMAGES),--images $(IMAGES))
	$(BIN)/python benchmarks/scaling.py $(if $(IMAGES),--images $(IMAGES))

bench: bench-build bench-read bench-step   ## all of them: an hour, on a machine that does nothing else

lint: $(DEV)          ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)          ## the documentation, in site; a warning or a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(DEV)
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# uv resolves and installs in seconds what takes pip minutes
$(BIN)/uv:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv

$(READY): pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[demo]'
	touch $@

$(PHOTOS): pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[demo-photos]'
	touch $@ $(READY)

$(DEV): pyproject.toml | $(BIN)/uv
	@pkg-config --exists opencv4 libturbojpeg 2>/dev/null && command -v g++ >/dev/null || $(MAKE) --no-print-directory system
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[dev]'
	touch $@ $(READY) $(PHOTOS)

$(BENCH): $(DEV)
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[bench]'
	touch $@

system:                 ## the system's packages (Debian, Ubuntu); asks for nothing
	@if ! command -v apt-get >/dev/null; then echo "install what Debian calls: $(SYSTEM)" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root="sudo -n"; else \
	  echo "the tests build FFCV; install once: sudo apt-get install $(SYSTEM)" >&2; exit 1; fi; \
	$$root apt-get update -q && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(SYSTEM)
