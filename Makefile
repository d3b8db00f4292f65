# Each command sets up what it needs in .venv, once. PYTHON=python3.12 picks the interpreter; TORCH=cpu or TORCH=cuda the build of torch.
PYTHON ?= python3
TORCH ?=
export TORCH
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help demo test lint docs readme clean-notebooks prepare env dev

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: env  ## Distil the shipped teacher into a 4-step depth-to-image model and measure it
	@.venv/bin/cond-distill demo

test: dev  ## Export, check and run every notebook
	@$(PY) tools/test.py

lint: dev  ## The tests that run no notebook
	@$(PY) tools/test.py --fast

docs: dev  ## Build the documentation into _docs and check its links
	@$(PY) tools/docs.py

readme: dev  ## Write README.md from nbs/index.ipynb
	@$(PY) tools/readme.py

clean-notebooks: dev  ## Strip from the notebooks what does not belong into git
	@$(PY) tools/notebook.py clean

prepare: dev  ## Before a commit: export the notebooks, clean them, write README.md
	@.venv/bin/nbdev_export && $(PY) tools/notebook.py clean && $(PY) tools/readme.py

env:
	@$(PYTHON) tools/setup_env.py

dev:
	@$(PYTHON) tools/setup_env.py dev
