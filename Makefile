# make demo   the main job on the embedded small model        make test   the test suite
# Both set up what they need: a virtual environment in .venv, torch, the package and its extras.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp')
NATIVE := csrc/CMakeLists.txt $(filter-out csrc/tests/%,$(CPP))

# $(call native_tests,FOLDER,OPTIONS): configure, build and run the tests of csrc
define native_tests
	$(BIN)/cmake -S csrc -B $(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja $(2) --log-level=WARNING
	$(BIN)/cmake --build $(1)
	$(BIN)/ctest --test-dir $(1) --output-on-failure --parallel 2
endef

.PHONY: demo easy-llava-experts embedder test test-native test-slow arm arm-tools sanitize fuzz fuzz-sanitize soak lint docs bench gpu results clean

demo: $(VENV)/installed
	$(BIN)/bivlm demo

# the embedded model's sister with experts, half an hour on one core: what docs/results/mixture.md is measured on
easy-llava-experts: build/easy-llava-experts/model.safetensors
build/easy-llava-experts/model.safetensors: src/bivlm/zoo/train_experts.py | $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m bivlm.zoo.train_experts $(@D)

test: test-native
	BIVLM_TEST_TORCHVISION=$(VENV)/torchvision OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# the C++ tests of csrc; quick, since only what changed is built again
test-native: $(VENV)/installed-dev
	$(call native_tests,build/native,)

# the same with the address and undefined-behaviour sanitizers
sanitize: $(VENV)/installed-dev
	$(call native_tests,build/sanitize,-DBIVLM_SANITIZE=ON)

# the library for 64-bit ARM from another machine, and its C++ tests in an emulator: right results, but no times
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_QEMU ?= qemu-aarch64
ARM_ROOT ?= /usr/aarch64-linux-gnu
arm: arm-tools $(VENV)/installed-dev
	$(call native_tests,build/arm64,-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(ARM_CXX) "-DCMAKE_CROSSCOMPILING_EMULATOR=$(ARM_QEMU);-L;$(ARM_ROOT)")

arm-tools:
	@command -v $(ARM_CXX) >/dev/null || { echo "make arm: there is no $(ARM_CXX); install it (Debian: g++-aarch64-linux-gnu), or name another compiler in ARM_CXX" >&2; exit 1; }
	@command -v $(ARM_QEMU) >/dev/null || { echo "make arm: there is no $(ARM_QEMU); install it (Debian: qemu-user), or name another emulator in ARM_QEMU" >&2; exit 1; }

# broken inputs, drawn at random: FUZZ_COUNT of each kind from FUZZ_SEED on. Every reader must refuse them, or all agree
FUZZ_COUNT ?= 100000
FUZZ_FOLDERS ?= 3000
FUZZ_SEED ?= 0
fuzz: $(VENV)/installed-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.fuzz tensors --count $(FUZZ_COUNT) --seed $(FUZZ_SEED)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.fuzz folders --count $(FUZZ_FOLDERS) --seed $(FUZZ_SEED)

# the same on the library of `make sanitize`, after a proof that the sanitizers see an overrun in it (Linux, GCC)
fuzz-sanitize: FUZZ_COUNT = 10000
fuzz-sanitize: FUZZ_FOLDERS = 300
fuzz-sanitize: export LD_PRELOAD_SANITIZE = $(shell $(CXX) -print-file-name=libasan.so):$(shell $(CXX) -print-file-name=libubsan.so)
fuzz-sanitize: export BIVLM_LIBRARY = $(abspath build/sanitize/libbivlm_kernels.so)
fuzz-sanitize: sanitize
	LD_PRELOAD=$$LD_PRELOAD_SANITIZE ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.canary
	LD_PRELOAD=$$LD_PRELOAD_SANITIZE ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests OMP_NUM_THREADS=1 \
		$(BIN)/python -m reliability.fuzz tensors --count $(FUZZ_COUNT) --seed $(FUZZ_SEED)
	LD_PRELOAD=$$LD_PRELOAD_SANITIZE ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests OMP_NUM_THREADS=1 \
		$(BIN)/python -m reliability.fuzz folders --count $(FUZZ_FOLDERS) --seed $(FUZZ_SEED)

# the long proofs of docs/trust.md: jobs killed at every moment and at random, races, and the memory of a model of three
# billion weights, for which SOAK_FOLDER needs 20 GB
SOAK_FOLDER ?= $(or $(TMPDIR),/tmp)
soak: $(VENV)/installed-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.soak moments
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.soak kills --count 200
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m reliability.soak races --count 20
	$(BIN)/python benchmarks/bench_memory.py --large --folder $(SOAK_FOLDER) --json docs/results/memory.json

test-slow: $(VENV)/installed-dev
	BIVLM_TEST_TORCHVISION=$(VENV)/torchvision $(BIN)/python -m pytest -q -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CPP)

# the site, into site/: offline, and a warning is an error
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_bivlm.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_formats.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_layers.py
	$(BIN)/python benchmarks/bench_peers.py
	$(BIN)/python benchmarks/bench_prefill.py
	$(BIN)/python benchmarks/bench_kernels.py --quick
	$(BIN)/python benchmarks/bench_decode.py --rounds 1
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_experts.py --quick --rounds 4
	$(BIN)/python benchmarks/bench_search.py
	$(BIN)/python benchmarks/bench_serve.py --soak 0
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_scale.py

# on a CUDA or ROCm card: the tests of its kernels, then their times and a model's, into docs/results/gpu-CARD.md. Without one it
# fails with a line that says so
gpu: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_gpu.py

# a small SAM for benchmarks/bench_masks.py: ten minutes on one core
masks-model: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m bivlm.zoo.train_masks build/masks

# a small embedding model for benchmarks/bench_embedding.py: some minutes on one core
embedder: build/embedder/model.safetensors
build/embedder/model.safetensors: src/bivlm/zoo/train_embedding.py src/bivlm/zoo/scenes.py | $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m bivlm.zoo.train_embedding $(@D)

# the README's tables, and those in docs/results that the embedded model gives
results: $(VENV)/installed-dev
	$(BIN)/python benchmarks/demo_results.py
	$(BIN)/python benchmarks/compare_results.py
	$(BIN)/python benchmarks/prune_results.py
	$(BIN)/python benchmarks/paper_tables.py --questions 400
	$(BIN)/python benchmarks/recount_results.py
	$(BIN)/bivlm analyze src/bivlm/zoo/easy-llava --out docs/results/analysis

$(VENV)/installed: pyproject.toml CMakeLists.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[demo]"
	touch $@

# torchvision's wheels are built for one torch each; the tests need its pure torch code only, and only they see this copy
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps -e examples/outside_method
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
