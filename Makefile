# `make demo` and `make test` need Python 3.11+ and make; each prepares .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEFT   := .peft-tests

.PHONY: install demo test lint conformance bench clean

install: $(VENV)/installed

# torch and torchvision are asked for together, so that pip picks builds that fit; the last line proves they do.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@$(BIN)/python -c 'import torch, torchvision; torchvision.ops.nms' || { \
		echo 'torch and torchvision do not fit together: remove any local torch file that pip picks up, then run again.'; exit 1; }
	@touch $@

demo: install
	$(BIN)/rlrr demo --output demo --overwrite

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# PEFT's own test-suite, of the version installed here, on our tuner.
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

clean:
	rm -rf $(VENV) $(PEFT) demo bench
