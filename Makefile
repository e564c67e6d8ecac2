# certseg's commands. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce-segcertify-figure2 reproduce-sea-streets reproduce-sea-camvid reproduce-sea-figure1 reproduce-sea-table1 \
	reproduce-sea-table2-voc reproduce-sea-table3-ade20k reproduce-lipschitz-camvid reproduce-lipschitz-cityscapes \
	reproduce-lipschitz-pets reproduce-lipschitz-kvasir reproduce-demasked-streets reproduce-demasked-camvid \
	reproduce-demasked-table1 reproduce-demasked-table3 reproduce-demasked-table7 test check format clean

help:  ## list the commands
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 24

setup: $(STAMP)  ## make .venv with everything certseg needs (uv, about 5 GB)

$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $@

demo: setup  ## train on street scenes, certify and attack 20 images, print the table (minutes on 2 cores)
	$(BIN)/certseg experiment=demo

reproduce-segcertify-figure2: setup  ## the toy study of SegCertify's paper (Fig. 2), its findings checked (about half a minute)
	$(BIN)/python scripts/reproduce.py segcertify-figure2

# The data set lies in ROOT; ARGS are further settings, for example ARGS="model.checkpoint=robust.pt".
RUN = $(BIN)/certseg $(if $(ROOT),dataset.root=$(ROOT)) $(ARGS)

reproduce-sea-streets: setup  ## clean and adversarial training under SEA on street scenes (about ten minutes)
	$(RUN) experiment=sea/streets

reproduce-sea-camvid: setup  ## the same on CamVid, 50 images, four radii (hours on 2 cores): ROOT=data/camvid
	$(RUN) experiment=sea/camvid

reproduce-sea-figure1: setup  ## targeted attacks on CamVid in pictures, clean and robust network: ROOT=data/camvid
	$(RUN) experiment=sea/figure1

reproduce-sea-table1: setup  ## SEA's paper, Table 1 (losses), for a trained model: ROOT=... ARGS="model.checkpoint=..."
	$(RUN) experiment=sea/table1

reproduce-sea-table2-voc: setup  ## SEA's paper, Table 2 (VOC 2012, needs a GPU): ROOT=.../VOC2012
	$(RUN) experiment=sea/table2_voc

reproduce-sea-table3-ade20k: setup  ## SEA's paper, Table 3 (ADE20K, needs a GPU): ROOT=.../ADEChallengeData2016
	$(RUN) experiment=sea/table3_ade20k

reproduce-lipschitz-camvid: setup  ## Lipschitz certificates against smoothing on CamVid (minutes): ROOT=data/camvid
	$(RUN) experiment=lipschitz/camvid

reproduce-lipschitz-cityscapes: setup  ## the same on Cityscapes (needs a GPU): ROOT=data/cityscapes
	$(RUN) experiment=lipschitz/cityscapes

reproduce-lipschitz-pets: setup  ## the same on Oxford-IIIT Pet (needs a GPU): ROOT=data/oxford_pets
	$(RUN) experiment=lipschitz/pets

reproduce-lipschitz-kvasir: setup  ## the same on Kvasir-SEG (needs a GPU): ROOT=data/kvasir_seg
	$(RUN) experiment=lipschitz/kvasir

reproduce-demasked-streets: setup  ## detection of patches and recovery from them on street scenes (minutes)
	$(RUN) experiment=demasked/streets

reproduce-demasked-camvid: setup  ## the same on CamVid, 50 images: ROOT=data/camvid
	$(RUN) experiment=demasked/camvid

# The paper's tables need a network's checkpoint and ZITS as a TorchScript file: ARGS="model.checkpoint=beit.pth
# certifier.inpainter.path=zits.pt"; another network: experiment/demasked/network=swin_b_ade20k (configs/experiment/demasked).
reproduce-demasked-table1: setup  ## Demasked Smoothing's paper, Table 1 (masks, needs a GPU): ROOT=... ARGS=...
	$(RUN) experiment=demasked/table1

reproduce-demasked-table3: setup  ## its Table 3 (networks, needs a GPU): ROOT=... ARGS=...
	$(RUN) experiment=demasked/table3

reproduce-demasked-table7: setup  ## its Table 7 (ZITS against black, needs a GPU): ROOT=... ARGS="model.checkpoint=... zits=..."
	$(RUN) experiment=demasked/table7

test: check  ## check, then run all tests, on all cores
	$(BIN)/python -m pytest -n auto --dist loadfile

check: setup  ## lint, formatting, types, import directions, rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p certseg --num-workers 2
	$(BIN)/python -m pytest tests/test_imports.py tests/test_house.py

format: setup  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches; results in outputs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
