# `make demo`: install, train, convert, score, and build the listening page. `make test`: install and run the tests.
SHELL := /bin/bash
VENV := .venv

.PHONY: install demo test lint clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	cd egs/debian-2mix && ./run.sh

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The stamp is made last: an installation that broke off is taken up again.
$(VENV)/.installed: pyproject.toml tools/install.sh
	tools/install.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info {egs,recipes}/*/{data,exp,downloads}
