# make demo: everything from set-up to trained folds, on generated X-rays
# make test: all tests
# Both make their own environment in .venv; PYTHON names the Python (3.11 or later) to make it with.

PYTHON ?= python3
BIN := .venv/bin
DEMO := datasets/demo_data

.PHONY: demo test
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/python -m datasets.sample --out $(DEMO) --size 512
	$(BIN)/python -m datasets.prepare --images $(DEMO)/dicom-images-train --out $(DEMO)
	$(BIN)/python main.py --config recipes/demo.yaml

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
