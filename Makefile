# make demo   install, separate voices with the shipped model, then train a model from scratch
# make test   install and run the tests, in JOBS processes
# make docs   install and build the documentation into build/docs
# make clean  remove .venv and build, and from the recipes data, downloads and trained models
VENV := .venv
JOBS := 2
LOCK := requirements.lock

.PHONY: install demo test lint docs lock audit clean

install: $(VENV)/.installed

demo: $(VENV)/.installed
	tools/demo.sh

# One thread each: threads of several processes on one core wait for each other.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

# Fails on a broken link or anchor. The variable silences Material's advertisement of its successor.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# Update the lock to the newest releases that pyproject.toml allows, for every platform and Python.
lock: $(VENV)/.installed
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --extra slurm --universal --upgrade \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --output-file $(LOCK)

# Check the locked versions against known vulnerabilities; needs the network.
audit: $(VENV)/.installed
	$(VENV)/bin/pip-audit --requirement $(LOCK) --disable-pip --require-hashes --strict

# The stamp is written last, so an interrupted installation is repeated.
$(VENV)/.installed: pyproject.toml $(LOCK) tools/install.sh
	tools/install.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info $(foreach made,data data-* exp downloads,egs/*/$(made) recipes/*/$(made))
