# make demo    set up, install, fetch MNIST, train, prune, fine-tune, test LeNet; prints a table and a line of JSON
# make test    set up with the test tools, then run every test and doctest
# make test-gpu the tests of what runs on a GPU
# make record-NAME a record of records/, trained anew on the GPU (RECORD_ARGS=--gpu) or the CPU; make verify scores all
# make lint types kernels docs bench sanitize wheel
# The virtual environment is .venv; choose another with VENV=..., another Python with PYTHON=...
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find protocaffe kernels proto models setup.py pyproject.toml -type f -not -path '*/__pycache__/*' \
	-not -path 'protocaffe/_build/*' -not -path 'protocaffe/_share/*' 2>/dev/null)

GPU_TESTS := tests/layers tests/pruning tests/backends/test_cuda.py tests/backends/test_cuda_dnn.py \
	tests/test_goldens.py tests/test_masks.py tests/test_solver.py tests/test_update_kernels.py tests/test_net_runs.py \
	tests/test_trained_models.py tests/test_fusion.py tests/test_memory_reuse.py tests/test_interop.py \
	tests/backends/test_cuda_interop.py tests/backends/test_cuda_kernels.py tests/backends/test_cuda_feed.py \
	tests/data/test_device_feed.py tests/test_pooled_chains.py tests/test_iteration.py

#: recipes of tools/record.py
RECORDS := lenet_108x lenet_180x lenet_300x lenet_300_100_80x mnist_cnn_95 mnist_cnn_99 resnet18_90 resnet18_98 \
	resnet18_half_macs resnet18_quarter_macs

.PHONY: $(RECORDS:%=record-%) verify demo test test-gpu lint types kernels docs bench sanitize wheel ci clean

demo: $(VENV)/.installed
	$(BIN)/protocaffe demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

# Layers, goldens, solvers and masks on the GPU: what does not name a device computes there
test-gpu: $(VENV)/.test
	PROTOCAFFE_TEST_DEVICE=gpu $(BIN)/python -m pytest -q $(GPU_TESTS) $(PYTEST_ARGS)

$(RECORDS:%=record-%): $(VENV)/.installed
	$(BIN)/protocaffe data mnist --border 1
	$(BIN)/protocaffe data mnist --border 2
	$(BIN)/protocaffe data fashion-mnist
	$(BIN)/python tools/record.py $(@:record-%=%) $(RECORD_ARGS)

verify: $(VENV)/.installed
	$(BIN)/protocaffe data mnist
	$(BIN)/protocaffe data fashion-mnist
	$(BIN)/protocaffe verify records

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_layering.py

types: $(VENV)/.dev
	$(BIN)/mypy

kernels: $(VENV)/.dev
	$(BIN)/python tools/check_kernels.py

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b doctest docs docs/_build/doctest

sanitize: $(VENV)/.test
	$(BIN)/python tools/sanitize.py $(SANITIZE_ARGS)

bench: $(VENV)/.test
	$(BIN)/python benchmarks/cpu_steps.py

wheel: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/build_wheel.py

ci:
	.ci/run

clean:
	rm -rf build dist *.egg-info protocaffe/_build protocaffe/_share docs/_build docs/_generated

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python 3.10 or newer is needed, $(PYTHON) is {v.major}.{v.minor}")'
	$(PYTHON) -m venv $(VENV)

# An editable install (made by `make test`) serves `make demo` as well; a plain one does not serve `make test`.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	if [ -e $(VENV)/.test ]; then $(BIN)/python -m pip install -q -e . ; else $(BIN)/python -m pip install -q . ; fi
	touch $@

$(VENV)/.test: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@ $(VENV)/.test $(VENV)/.installed
