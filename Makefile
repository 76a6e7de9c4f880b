# make bench | make test | make test-long | make lint: each makes .venv when it is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*))
# nflows 0.14 is an sdist that a newer setuptools refuses, and -c does not reach build environments: these do.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_WAIT_POLICY := passive
STAMP := $(VENV)/.stamp

.PHONY: bench test test-long ci lint zoo zoo-ci toys mnist tables example mutants calibrate checks check-full coverage floors fuzz torture clean

$(STAMP): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[dev]' $(addprefix -e ./,$(PLUGINS))
	touch $@

## bench: the main job: vae, flow and ddpm on moons, checkerboard and mnist, then a table and a report
bench: $(STAMP)
	$(BIN)/genzoo bench --models vae,flow,ddpm -o runs/bench

## test: lint, types, import contracts and every test but the long ones
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m "not long"

## test-long: the slow tests
test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 -m long

## ci: the small shares that issues ask of CI, beyond the tests
ci: $(STAMP)
	$(BIN)/genzoo doctor --strict-plugins
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture.py --kills 6 --no-receipt
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --seconds 30
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo_smoke.py

## zoo-ci: the last of these: every registered model on four data sets for 20 steps, two processes in all (two minutes)
zoo-ci: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo_smoke.py

## zoo: the same for a minute each, the committed records (about an hour on two cores)
zoo: $(STAMP)
	$(BIN)/genzoo bench benchmarks/zoo.toml -o benchmarks/results/zoo --jobs 2 --clean

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

## toys, mnist: the committed results (about two hours); cells that have a record there are kept, so remove those
## that are to be trained again
toys: $(STAMP)
	$(BIN)/genzoo bench benchmarks/toys.toml -o benchmarks/results/toys --jobs 2 --clean
mnist: $(STAMP)
	$(BIN)/genzoo bench benchmarks/mnist-10min.toml -o benchmarks/results/mnist-10min --jobs 1 --clean
	$(BIN)/genzoo bench benchmarks/mnist-binary-2min.toml -o benchmarks/results/mnist-binary-2min --clean

## mutants: the kit's checks against models that are wrong (three minutes)
mutants: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutant_matrix.py

## calibrate: false alarms of the kit's checks on correct models (under twenty minutes)
calibrate: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/calibrate.py

## check-full: the kit's full level over every registered model, with its receipt (twenty minutes of one core)
check-full: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check_full.py

## fuzz: a million hostile inputs to the parsers of files that strangers hand over (ten minutes on two cores)
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py

## torture: a bench killed 50 times and resumed, against an untouched one (under ten minutes)
torture: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture.py

## coverage: how often stated intervals hold the truth (one minute)
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py

## floors: floors and ceilings of the test images that reports show (a minute)
floors: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/floors.py

## checks: write CHECKS.md from the kit
checks: $(STAMP)
	$(BIN)/python benchmarks/checks_page.py

## tables: write the README's tables from the committed records
tables: $(STAMP)
	$(BIN)/python benchmarks/readme_tables.py

## example: the committed example report and its picture, from the committed records (the picture wants chromium)
example: $(STAMP)
	$(BIN)/python benchmarks/example.py

clean:
	rm -rf $(VENV) runs
