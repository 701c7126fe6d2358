# make demo | test | check. Python >= 3.10 with venv (Debian, Ubuntu: apt install python3-venv) is all that is needed.
PYTHON ?= python3
DEMO_VENV ?= .venv
TEST_VENV ?= .venv-test
ARGS ?=
# Processes that share the tests, as many as there are cores; WORKERS=0: this one alone, as a debugger wants it.
WORKERS ?= auto
PYTEST = $(TEST_VENV)/bin/python -m pytest -n $(WORKERS) --maxprocesses 8

NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is Python " + \
  sys.version.split()[0] + "; 3.10 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12")'

.PHONY: demo test check unit audit sbom torture fuzz bench bench-peers bench-all performance clean

demo: $(DEMO_VENV)/.done
	$(DEMO_VENV)/bin/hygroma demo $(ARGS)

test: $(TEST_VENV)/.done
	$(PYTEST) $(ARGS)

check: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m pip install -q -e '.[check]'
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
	$(MAKE) unit audit sbom
	$(PYTEST) $(ARGS)

# Everything that is installed here: the device part's dependencies, the toolchain's and the tests'.
audit: $(TEST_VENV)/.done
	mkdir -p build
	$(TEST_VENV)/bin/python -m pip install -q -e '.[check]'
	$(TEST_VENV)/bin/python .ci/audit.py build/audit.json

# The device part alone, which `make demo` installs: what a hospital gets.
sbom: $(TEST_VENV)/.done $(DEMO_VENV)/.done
	mkdir -p build
	$(TEST_VENV)/bin/python -m pip install -q -e '.[check]'
	$(TEST_VENV)/bin/python -m cyclonedx_py environment --pyproject pyproject.toml --of JSON -o build/sbom.cdx.json $(DEMO_VENV)/bin/python
	@echo 'SBOM: build/sbom.cdx.json'

# Every fault many times, on real processes, over an hour; the figures go into benchmarks/results/trust.md. ARGS=.1 does a tenth,
# ARGS='1 kills outages' those alone.
torture: $(TEST_VENV)/.done
	mkdir -p benchmarks/results
	$(TEST_VENV)/bin/python tests/faults/torture.py benchmarks/results/trust.md $(ARGS)

# Coverage-guided fuzzing of every parser of outside bytes, and the page's server against its own description; ARGS='600 dicom'
# hunts in one for ten minutes.
fuzz: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m pip install -q 'atheris>=3,<4'
	$(TEST_VENV)/bin/python tests/fuzz/campaign.py benchmarks/results/trust.md $(ARGS)

# Models, stages and start-up against benchmarks/budgets.yaml: some ten minutes. ARGS='--compare OLD.json --fail-if-slower 10%'.
bench: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m edge.cli bench --budgets $(ARGS)

# The same student on other runtimes. ARGS='--threads 2'.
bench-peers: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m pip install -q -e '.[peers]'
	$(TEST_VENV)/bin/python -m edge.cli bench peers $(ARGS)

# Everything, into benchmarks/results, and the page made of it. On an idle machine; some 50 minutes. RESULT=name-of-the-board.
RESULT ?= $(shell uname -m)-$(shell nproc)-cores
bench-all: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m pip install -q -e '.[peers]'
	$(TEST_VENV)/bin/python -m edge.cli bench all --budgets --out benchmarks/results/$(RESULT).json $(ARGS); status=$$?; \
	  $(TEST_VENV)/bin/python -m benchmarks.performance; exit $$status

# docs/performance.md from the results that are there.
performance: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m benchmarks.performance

# Exposure 0.0 (safest) to 10.0; the promise is at most 1.2 with a camera (docs/design.md#trust). The tool takes it times ten.
unit:
	systemd-analyze security --offline=true --threshold=12 systemd/hygroma@.service
	systemd-analyze security --offline=true --threshold=12 systemd/hygroma-update@.service
	systemd-analyze security --offline=true --threshold=12 systemd/hygroma-engine@.service

$(DEMO_VENV)/.done: pyproject.toml $(shell find edge calibration export benchmarks -type f -not -path '*/__pycache__/*' 2>/dev/null)
	@$(NEW_ENOUGH)
	$(DEMO_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(DEMO_VENV)
	rm -rf build # what an earlier version left there would go into the wheel
	$(DEMO_VENV)/bin/python -m pip install -q --disable-pip-version-check .
	touch $@

# torch first and by itself: where a CPU build is at hand this version takes it. It has wheels for CPython 3.10 and newer.
$(TEST_VENV)/.done: pyproject.toml
	@$(NEW_ENOUGH)
	$(TEST_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(TEST_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) build *.egg-info
