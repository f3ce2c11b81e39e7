# Two commands do everything, set-up included: `make demo` and `make test`.
# Paths are relative throughout, so that a checkout under a path with spaces works.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.PHONY: demo test lint types unit train clean

demo: $(VENV)/.ready
	$(RUN) ssi_core demo --out out/demo

test: lint types unit

lint: $(VENV)/.ready-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/.ready-test
	$(RUN) mypy
	# nodes/ reaches the engine relatively, as part of a pack; for that the repository needs a name that is one.
	mkdir -p build/types
	ln -sfn ../.. build/types/ssi_pack
	cd build/types && MYPYPATH=. ../../$(RUN) mypy --config-file ../../pyproject.toml -p ssi_pack.nodes

unit: $(VENV)/.ready-test
	$(RUN) pytest -q

train: $(VENV)/.ready-test
	$(RUN) ssi_core.demo.train --out out/demo32.safetensors

# Only the demo and the tests pin torch, so that results are comparable. Where PyPI's torch is a CUDA build and you want
# the small one for CPUs: make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo
$(VENV)/.ready: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(RUN) pip install --quiet --editable .
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(RUN) pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
