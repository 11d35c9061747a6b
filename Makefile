# make demo: from a bare clone to poses of a pretrained network, a trained one of your own, and its overlay video. make test: the tests. Both make their own .venv.

PYTHON ?= python3
DEMO ?= demo
VENV := .venv
RUN := $(VENV)/bin/python
FIRST_BOX := $(RUN) -c 'import json, sys; print(*json.load(open(sys.argv[1]))["boxes"][0], sep=",")'

.PHONY: demo test test-slow test-plan test-tensorflow fuzz lint docs parity clean

demo: $(VENV)/.base
	$(RUN) -m kimnet_jax build kinetic_puppets/joints15 --data_dir $(DEMO)/data
	$(RUN) -m kimnet_jax clip kinetic_puppets/joints15 --data_dir $(DEMO)/data --split test --clip 8 --out $(DEMO)/clip --overwrite
	# a pretrained network, which has only seen people; the box is the person's in the first frame, from there on it follows the pose
	$(RUN) -m kimnet_jax.predict --box "$$($(FIRST_BOX) $(DEMO)/clip/boxes.json)" --out $(DEMO)/pretrained $(DEMO)/clip
	$(RUN) -m kimnet_jax.train --config configs/kinetic_puppets.py --workdir $(DEMO)/run --config.dataset.data_dir=$(DEMO)/data
	$(RUN) -m kimnet_jax.evaluate --workdir $(DEMO)/run --data_dir $(DEMO)/data
	$(RUN) -m kimnet_jax.predict --workdir $(DEMO)/run --box "$$($(FIRST_BOX) $(DEMO)/clip/boxes.json)" --out $(DEMO)/predictions $(DEMO)/clip
	@echo
	@echo 'data set:          $(DEMO)/data/kinetic_puppets'
	@echo 'checkpoints:       $(DEMO)/run/checkpoints'
	@echo 'training curves:   $(DEMO)/run/metrics.jsonl (tensorboard --logdir $(DEMO)/run)'
	@echo 'evaluation tables: $(DEMO)/run/evaluation'
	@echo 'overlay videos:    $(DEMO)/pretrained/clip.overlay.mp4, and of the new run $(DEMO)/predictions/clip.overlay.mp4'

test: $(VENV)/.test
	$(RUN) -m pytest

test-slow: $(VENV)/.test
	$(RUN) -m pytest -m slow

# kimnet plan with the compiler for TPUs, in an environment of its own: it is large
test-plan:
	$(MAKE) VENV=.venv-plan .venv-plan/.test .venv-plan/.plan
	.venv-plan/bin/python -m pytest -n 0 tests/training/test_plan.py

# the data sets under TFDS's own test of builders, in an environment of its own: no other test may import TensorFlow
test-tensorflow:
	$(MAKE) VENV=.venv-tensorflow .venv-tensorflow/.test-tensorflow
	.venv-tensorflow/bin/python -m pytest -n 0 tests/tensorflow_builders.py

# spoilt inputs on every command, for an hour: make fuzz SECONDS=600 for ten minutes
SECONDS ?= 3600
fuzz: $(VENV)/.test
	KIMNET_FUZZ_SECONDS=$(SECONDS) $(RUN) -m pytest -n 0 -s tests/fuzz

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

parity: $(VENV)/.test
	$(RUN) -m kimnet_jax.parity --all --out docs

docs: $(VENV)/.docs
	$(RUN) -m mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-plan .venv-tensorflow $(DEMO) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp is as new as the last installation: changed dependencies are installed by the next command that needs them.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, $(PYTHON) is %s.%s: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test $(VENV)/.plan $(VENV)/.test-tensorflow $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch $@
