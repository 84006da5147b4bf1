# `make demo`: install, separate voices with the shipped model, then train one from nothing.
# `make test`: install and run the tests.
SHELL := /bin/bash
VENV := .venv
LOCK := requirements.lock

.PHONY: install demo test lint lock audit clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	tools/demo.sh

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Renew the lock: the newest releases that pyproject.toml admits, for every platform and Python.
lock: $(VENV)/.installed
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --extra slurm --universal --upgrade \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --output-file $(LOCK)

# Look the locked versions up among known vulnerabilities; needs the network.
audit: $(VENV)/.installed
	$(VENV)/bin/pip-audit --requirement $(LOCK) --disable-pip --require-hashes --strict

# The stamp comes last, so an interrupted installation is taken up again.
$(VENV)/.installed: pyproject.toml $(LOCK) tools/install.sh
	tools/install.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info {egs,recipes}/*/{data,exp,downloads}
