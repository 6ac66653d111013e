# Every target needs Python 3.11+ and make, and prepares .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEFT   := .peft-tests
# Test files share the cores; the tests of one file run in one process, which makes their fixtures once.
PYTEST := $(BIN)/pytest -n auto --dist loadfile

.PHONY: install demo check test soak lint conformance bench clean

# The package with all its extras, as developers need it.
install: $(VENV)/installed

# torch and torchvision are asked for together, so that pip picks builds that fit; the last line proves they do.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@$(BIN)/python -c 'import torch, torchvision; torchvision.ops.nms' || { \
		echo 'torch and torchvision do not fit together: remove any local torch file that pip picks up, then run again.'; exit 1; }
	@touch $@

# Train, compare and look at a small model in minutes, offline.
demo: install
	$(BIN)/rlrr demo --output demo --overwrite

# The quick tests, for while you work: under 90 seconds on two cores.
check: install
	$(PYTEST) -m 'not slow and not soak'

# The quick and the slow tests, as CI runs them: under 6 minutes on two cores.
test: install
	$(PYTEST)

# Everything, with the full matrices of which `make test` has a sample. What is stopped goes on, but for the tests.
soak: install
	$(PYTEST) -m ''
	$(BIN)/python benchmarks/reliability.py --output bench

# Style, formatting and types.
lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# PEFT's own test-suite, of the version installed here, on our tuners.
conformance: install $(PEFT)/tests
	PEFT_TESTS=$(PEFT)/tests $(BIN)/pytest tests/conformance

$(PEFT)/tests: $(VENV)/installed
	rm -rf $(PEFT) && mkdir $(PEFT)
	version=$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("peft"))'); \
	$(BIN)/pip download --quiet --no-deps --no-binary peft --dest $(PEFT) "peft==$$version" && \
	tar -xf $(PEFT)/peft-*.tar.gz -C $(PEFT) --strip-components=1
	@test -d $@

# A first look at what a training step costs; `benchmarks/step.py --help` says how to see it all.
bench: install
	$(BIN)/python benchmarks/step.py --models [vit_small_patch16_224] --cases [official,rlrr,lora,full] \
		--precisions [fp32] --turns 4 --output bench

# Remove what the other targets made.
clean:
	rm -rf $(VENV) $(PEFT) demo bench
