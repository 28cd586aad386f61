# Everything a person does with the kit. `make` alone says what there is.

PYTHON ?= python3
BIN = .venv/bin
READY = .venv/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup run test lab page bench figures figures-pdiff fashion worlds clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s%s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv with everything pinned in constraints.txt; the others do it by themselves

$(READY): settings.ini constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  v=$$($(PYTHON) --version 2>/dev/null) || v="not there"; \
	  echo "gpt_kit needs Python 3.11, 3.12 or 3.13, for which all pinned packages have wheels, and $(PYTHON) is $$v;" \
	    "name another one, such as: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv: some minutes and about 2 GB, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

LESSONS = start whole networks/tasks networks/weights networks/collect networks/symmetry gpt/diffusion gpt/tokens gpt/model gpt/train \
          gpt/prompt gpt/evaluate play/landscape play/widgets

run: $(READY) ## the course without its last two lessons, with the sizes of nbs/run.yaml; ends in build/report/index.html
	@echo "The course takes about 8 minutes on two cores and 1.4 GB of disk (make clean gives it back). Interrupt it when you like; make run goes on."
	@$(BIN)/gpt-kit run $(LESSONS) -f nbs/run.yaml
	@$(BIN)/gpt-kit report

test: $(READY) ## all tests, side by side, then those that want to be alone: the widgets in Chromium (BROWSER=no make test leaves the browser out)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup -m "not alone"
	@$(BIN)/python -m pytest -m alone

lab: $(READY) ## JupyterLab on the lessons, for this machine alone
	@cd nbs && ../$(BIN)/jupyter lab --ip=127.0.0.1

page: $(READY) ## models as pages that sample in any browser, without Python: build/page/index.html
	@$(BIN)/gpt-kit page digits-loss digit-subsets points-loss build/page

bench: $(READY) ## beside the fastest plain PyTorch; a table, and build/bench.json
	@$(BIN)/python bench/run.py

figures: $(READY) ## the figures of the G.pt paper at our size, each with a verdict: two to three hours; interrupt it when you like
	@$(BIN)/gpt-kit figures

figures-pdiff: $(READY) ## the same for the tables of p-diff: about 25 minutes
	@$(BIN)/gpt-kit figures pdiff

fashion: $(READY) ## the paper's network for MNIST on Fashion-MNIST: data, 1,024 runs, a model and five figures, in 25 minutes
	@$(BIN)/gpt-kit data fashion
	@$(BIN)/gpt-kit figures fig03 fig05 fig09 fig13 fig14 -p worlds '["fashion-loss"]' --out build/fashion

worlds: $(READY) ## collect and train every world, ask unseen starts; an hour and a half; a table, and build/worlds.json
	@$(BIN)/python bench/worlds.py

clean: ## delete what was made (build/, collected and cached data); says how much that gives back
	@set -- build data/stores data/cache; size=$$(du -skc "$$@" 2>/dev/null | tail -1 | cut -f1); \
	  rm -rf "$$@"; echo "gave back $$(( ($${size:-0} + 512)/1024 )) MB (the environment stays; rm -rf .venv gives that back too)"
