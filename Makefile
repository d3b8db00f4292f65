# Each command sets up what it needs in .venv, once. PYTHON=python3.12 picks the interpreter; TORCH=cpu or TORCH=cuda the build of torch,
# CONSTRAINTS=constraints-oldest.txt the lowest versions that the package allows.
PYTHON ?= python3
TORCH ?=
export TORCH
CONSTRAINTS ?=
export CONSTRAINTS
PY := .venv/bin/python
# jobs at a time of `reproduce` and `longer`, in processes of their own
AT_ONCE ?= 1
# words: the part of test-wheel and test-jupyter whose names have one
ONLY ?=
.DEFAULT_GOAL := help
.PHONY: decoder gpu longer ablations reader bench teacher adaptors matrix photo-sources photos results tasks reproduce help demo test test-fast test-slow lint docs test-site test-jupyter test-wheel architecture readme clean-notebooks prepare env dev

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: env  ## Distil the shipped teacher into a 4-step depth-to-image model and measure it
	@.venv/bin/cond-distill demo

test: dev  ## Export, check and run every notebook
	@$(PY) tools/test.py

test-fast: dev  ## The quick part of tests/: about one minute of one core
	@$(PY) -m pytest -m "not slow"

test-slow: dev  ## The tests that break things on purpose, at length: a training killed 25 times (about ten minutes)
	@COND_DISTILL_KILLS=25 $(PY) tools/test.py --only training/checkpoint course/09_trainer resume_and_scale preflight

lint: dev  ## Formatter, linter, type checker, and the tests that run no notebook
	@$(PY) tools/test.py --fast

docs: dev  ## Build the documentation into _docs and check its links
	@$(PY) tools/docs.py

test-site: docs  ## Look at every page of the site in headless Chromium (not part of `make test`: it needs a browser)
	@$(PYTHON) tools/setup_env.py dev site && $(PY) tools/test_site.py

test-jupyter: dev  ## Run the pages of the course in JupyterLab in headless Chromium and move their sliders (ONLY="word …" for others)
	@$(PYTHON) tools/setup_env.py dev site && $(PY) tools/test_jupyter.py $(ONLY)

test-wheel: dev  ## Build the wheel, install it alone, and run the command and every notebook in empty folders (about half an hour; ONLY="sample course" for some)
	@$(PYTHON) tools/setup_env.py dev release && $(PY) tools/test_wheel.py $(ONLY)

readme: dev  ## Write README.md from nbs/index.ipynb
	@$(PY) tools/readme.py

clean-notebooks: dev  ## Strip from the notebooks what does not belong into git
	@$(PY) tools/notebook.py clean

prepare: dev  ## Before a commit: format and export the notebooks, clean them, write README.md
	@.venv/bin/ruff format -q . && .venv/bin/nbdev_export && $(PY) tools/notebook.py clean && $(PY) tools/readme.py

ASSETS := cond_distill/assets

teacher: env  ## Train the shipped teacher anew (ten minutes on one GPU, or many hours on 2 cores; can be stopped)
	$(PY) -m cond_distill.experiments.toy_teacher $(if $(shell command -v nvidia-smi),gpu,cpu) --out $(ASSETS)/teacher
	$(PY) -m cond_distill.experiments.teacher_card --folder $(ASSETS)/teacher

decoder: env  ## Train the decoder of the small world's autoencoder further, against a critic (minutes on a GPU; can be stopped)
	$(PY) -m cond_distill.experiments.decoder --out runs/decoder/vae

# the three of depth with as many network evaluations each; those of other tasks are shorter
adaptors: env  ## Train the shipped adaptors anew (about four hours of one core; can be stopped)
	.venv/bin/cond-distill distill --out runs/depth_finetuned --adaptor controlnet --num-examples 12000 --method finetune --timesteps all --steps 2937
	.venv/bin/cond-distill distill --out runs/depth_fixed --adaptor controlnet --num-examples 12000 --method codi --steps 2100
	.venv/bin/cond-distill distill --out runs/depth_distilled --adaptor controlnet --num-examples 12000 --steps 2448
	.venv/bin/cond-distill distill --out runs/superres_x4_distilled --task superres_x4 --adaptor concat --num-examples 3000 --steps 500
	.venv/bin/cond-distill distill --out runs/inpaint_distilled --task inpaint --adaptor concat --num-examples 3000 --steps 500
	.venv/bin/cond-distill distill --out runs/edit_distilled --task edit --adaptor concat --rank 32 --num-examples 3000 --steps 600
	$(PY) tools/ship.py runs/depth_finetuned runs/depth_fixed runs/depth_distilled runs/superres_x4_distilled runs/inpaint_distilled runs/edit_distilled

results: env  ## Measure and draw everything that the home page shows (a few minutes)
	$(PY) tools/results.py

tasks: env  ## Measure the other shipped adaptors (a few minutes; their opponents are in `make reproduce`)
	.venv/bin/cond-distill evaluate --n 128 --steps 1 2 4 8 16 --out results/tasks_distilled.json --adaptors superres_x4_distilled inpaint_distilled edit_distilled
	$(PY) tools/task_results.py

reader: env  ## Train an editing adaptor with and without a reader of its instructions, and measure both (about ten minutes on 2 cores)
	for r in 0 2; do .venv/bin/cond-distill distill --out runs/reader_$$r --task edit --adaptor concat --rank 64 --reader $$r --method finetune --timesteps all --steps 400 --num-examples 12000 --grid-every 0 || exit 1; done
	.venv/bin/cond-distill evaluate --n 256 --steps 1 4 --samplers ddim renoise --out results/reader.json --adaptors runs/reader_0 runs/reader_2

reproduce: env  ## Compare every method at equal budget, several seeds (hours; can be stopped, the same command goes on; AT_ONCE=14 on a GPU)
	.venv/bin/cond-distill reproduce --at-once $(AT_ONCE)

ablations: env  ## Change one thing at a time in PE-CoDi, at half of the budget (about three hours on 2 cores; can be stopped)
	.venv/bin/cond-distill reproduce --budget-fraction 0.5 --tasks depth --methods PE-CoDi any-step
	.venv/bin/cond-distill reproduce --budget-fraction 0.5 --tasks depth --ablations --seeds 0
	.venv/bin/cond-distill reproduce --budget-fraction 0.5 --tasks superres_x8 --seeds 0 --methods PE-CoDi "weights as printed" "no consistency" "look-ahead 100" "look-ahead 200" "look-ahead 300" "look-ahead 500" "look-ahead 700"

matrix: env  ## Train every adaptor on every task for a few steps and see whether it is followed (about half an hour on 2 cores; can be stopped)
	$(PY) tools/matrix.py

# photographs of Debian packages with free licences, fetched and used for training only; on a GPU:
# make photos PHOTO_TEACH="--steps 12000 --batch 256"
PHOTOS := runs/photos_debian
PHOTO_TEACH ?= --steps 5000 --batch 32
PHOTO_TASK := --teacher photos_teacher --images $(PHOTOS) --max-crop-scale 4 --channel-shuffle --task superres_x4 --adaptor concat --num-examples 8000
photo-sources: dev  ## Fetch the photographs that `make photos` trains on (260 MB with apt-get; nothing is installed)
	$(PY) tools/photo_sources.py $(PHOTOS)

# one finetuning, which both adaptors start from; then as many network evaluations for one as for the other
photos: photo-sources  ## Train the shipped teacher of photographs and its super-resolution adaptors anew (about two hours on one core; can be stopped)
	.venv/bin/cond-distill teach --images $(PHOTOS) --size 32 --max-crop-scale 4 $(PHOTO_TEACH) --num-examples 24000 --work runs/photos_work --out $(ASSETS)/photos_teacher
	.venv/bin/cond-distill distill $(PHOTO_TASK) --method finetune --timesteps all --steps 900 --out runs/photos_superres_start
	.venv/bin/cond-distill distill $(PHOTO_TASK) --init-from runs/photos_superres_start --method any_step --ramp-start 0 --ramp-end .3 --steps 400 --out runs/photos_superres_distilled
	.venv/bin/cond-distill distill $(PHOTO_TASK) --init-from runs/photos_superres_start --method finetune --timesteps all --steps 600 --out runs/photos_superres_finetuned
	$(PY) tools/ship.py runs/photos_superres_distilled runs/photos_superres_finetuned

LONGER := $(PY) benchmarks/longer.py --at-once $(AT_ONCE)
longer: env  ## Train methods of the comparison with six times its budget (days on 2 cores; with AT_ONCE=14, under MPS, about a quarter of an hour on an H200; can be stopped)
	$(LONGER) finetuned GD-II PE-CoDi any-step --seeds 0 1 2
	$(LONGER) finetuned GD-II PE-CoDi any-step --seeds 0 1 2 --tasks superres_x8
	$(LONGER) CM-II LCM-II CoDi "any-step, exponential" "any-step, midpoint"

gpu: dev  ## On a machine with a GPU: what only a GPU can tell (about twenty minutes)
	$(PY) benchmarks/gpu.py

bench: env  ## Measure the speed, as ratios within one run
	$(PY) benchmarks/bench.py

architecture: dev  ## Draw the page on the architecture anew, from the code
	$(PY) tools/notebook.py run nbs/appendix/architecture.ipynb

env:
	@$(PYTHON) tools/setup_env.py

dev:
	@$(PYTHON) tools/setup_env.py dev
