# On a fresh machine `make demo` or `make test` does all the set-up itself, in the virtual environment .venv.
PYTHON ?= python3
VENV ?= .venv
# What is installed as torch, the newest that we test; e.g. TORCH='torch==2.11.*'.
TORCH ?= torch>=2.11,<2.15
PY = $(VENV)/bin/python
# The package with what the demonstration needs, and what development needs beside it.
PACKAGE = $(VENV)/.package
INSTALLED = $(VENV)/.installed

.PHONY: install demo test test-gpu-less test-web test-slow test-slow-cpu test-slow-triton test-all sanitize lint types benchmarks \
    benchmarks-quick gpu-model gpu-gate gpu-pack gpu-faces clean

install: $(INSTALLED)

# torch first, so that the build finds it there and fetches no second one for itself; named again, so that torchvision
# comes in the version that fits it.
$(PACKAGE): $(VENV)/.torch pyproject.toml setup.py $(wildcard csrc/*/* csrc/*/*/* build_backend/*)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)' -e '.[demo]'
	$(PY) -m aminet_fast info
	touch $@

# The package is there already, and is not compiled again.
$(INSTALLED): $(PACKAGE)
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'aminet-fast[dev]'
	touch $@

# Holds the TORCH of the last call, and is newer than what was installed when it changes.
$(VENV)/.torch: FORCE
	@mkdir -p $(VENV); printf '%s\n' '$(TORCH)' | cmp -s - $@ || printf '%s\n' '$(TORCH)' > $@

FORCE:

demo: $(PACKAGE)
	$(PY) -m aminet_fast demo

# Tests on all cores, a process each; JOBS=1 for one after the other in one process.
JOBS ?= $(shell nproc)
PARALLEL = $(if $(filter 1,$(JOBS)),,-n $(JOBS) --dist worksteal) --durations=10

test: $(INSTALLED)
	$(PY) -m pytest $(PARALLEL) -m 'not slow and not gpu and not gpuless and not web'

# What proves the GPU code without a GPU and takes longer: nvcc for every architecture, spills, the emulator of the CUDA
# kernels, Triton's interpreter and compiler, the launches of a step.
test-gpu-less: $(INSTALLED)
	$(PY) -m pytest $(PARALLEL) -m 'gpuless and not slow and not gpu'

# The page of `aminet web` in Chromium, /usr/bin/chromium or the file that AMINET_CHROMIUM names; skipped where there is none, an
# error with AMINET_CHROMIUM=required. Gradio 6 wants Pillow below 13, so this install takes Pillow back to 12 in the
# environment: run it after the other tests, and `make clean` before them where they are to see Pillow 13 again.
WEB = $(VENV)/.web
test-web: $(WEB)
	$(PY) -m pytest -m web tests/web

$(WEB): $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'aminet-fast[web,faces]' 'playwright>=1.40'
	touch $@

test-slow: test-slow-cpu test-slow-triton

test-slow-cpu: $(INSTALLED)
	$(PY) -m pytest $(PARALLEL) -m 'slow and not gpu' --ignore=tests/kernels

# Hours on two cores. TORCH='torch==2.11.*' brings Triton 3.6; a part of it: TRITON='-k skaf_gate'.
test-slow-triton: $(INSTALLED)
	$(PY) -m pytest -m 'slow and not gpu' tests/kernels/test_compile.py $(TRITON)
	$(PY) -m pytest -m 'slow and not gpu' tests/kernels/test_interpreter.py tests/kernels/test_network.py $(TRITON)

test-all: $(INSTALLED)
	$(PY) -m pytest

# AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer over the compiled CPU kernels.
sanitize: $(INSTALLED)
	$(PY) -m tests.harness.sanitize address
	$(PY) -m tests.harness.sanitize thread

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(INSTALLED)
	$(PY) -m mypy

benchmarks: $(INSTALLED)
	$(PY) -m pytest benchmarks --benchmark-only --benchmark-json=results.json --rows=results.jsonl
	$(PY) -m benchmarks.report results.json --rows

# What the budgets of benchmarks/budgets.py ask for, in about five minutes on two cores.
benchmarks-quick: $(INSTALLED)
	$(PY) -m pytest benchmarks --quick --benchmark-only --benchmark-json=results.json
	$(PY) -m benchmarks.report results.json --rows

# What a training step and an inference call would take of an H200, without one: docs/gpu_model.md.
gpu-model: $(INSTALLED)
	$(PY) -m benchmarks.gpu_model --mode train
	$(PY) -m benchmarks.gpu_model --mode infer

# On a machine with a GPU: no set-up, no network. PYTHON=... (or PY=...) says which Python; docs/gpu.md has the phases.
# GATE='--within 120 --only gradients,step' and other options: python -m benchmarks.gpu_gate --help.
PHASE ?= A
gpu-gate:
	$(if $(filter file,$(origin PY)),$(PYTHON),$(PY)) -m benchmarks.gpu_gate --phase $(PHASE) $(GATE)

# Compiles here, without a GPU, what a GPU machine would have to: into .gpu/, which goes there along with the tree
# (docs/gpu.md). PACK_CUDA=0 leaves the CUDA module out; PACK_TRITON and PACK_PYTHON are the other machine's; PACK_TASKS
# names what is compiled, as benchmarks/gpu_pack/tasks.py says, where it is not to be everything.
PACK_ARCH ?= sm_90
PACK_TRITON ?= 3.6.0
PACK_PYTHON ?= 3.12
PACK_CUDA ?= 1
PACK_JOBS ?= $(shell nproc)
PACK_VENV = build/venv-triton-$(PACK_TRITON)

gpu-pack: $(INSTALLED)
	$(PY) -m benchmarks.gpu_pack.environment --triton $(PACK_TRITON) $(PACK_VENV)
	$(PACK_VENV)/bin/python -m benchmarks.gpu_pack --arch $(PACK_ARCH) --triton $(PACK_TRITON) \
	    --python $(PACK_PYTHON) --jobs $(PACK_JOBS) $(if $(filter 0 no,$(PACK_CUDA)),--no-cuda) \
	    $(if $(PACK_TASKS),--tasks $(PACK_TASKS))

# The faces of a folder as one archive of at most FACES_MIB MiB in .gpu/: make gpu-faces FACES=folder
FACES ?= $(AMINET_FACES)
FACES_MIB ?= 34.5
gpu-faces: $(INSTALLED)
	$(PY) -m benchmarks.gpu_pack.faces --from $(or $(FACES),$(error FACES=folder says where the faces are)) --most $(FACES_MIB)

# The site, in build/site. It needs neither torch nor an install: the API reference is read from the sources. The packages are those
# of pyproject.toml's extra "docs".
DOCS_VENV = build/venv-docs
.PHONY: docs
docs: $(DOCS_VENV)/.installed
	$(DOCS_VENV)/bin/mkdocs build --strict

$(DOCS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	sed -n 's/^docs = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ',' | \
	    xargs $(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
	touch $@

# What `make` made; runs/ keeps the networks that you trained.
clean:
	rm -rf $(VENV) build .gpu *.egg-info aminet_fast/_compiled runs/demo runs/demo-photograph
