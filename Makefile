# make help lists the targets. Each makes its own environment in .venv first; PYTHON names the Python
# (3.11 or later) to make it with.

PYTHON ?= python3
BIN := .venv/bin
DEMO := datasets/demo_data
UNSEEN := $(DEMO)/unseen
NAME := demo-$(shell date +%Y-%m-%d_%H-%M-%S)
RUN := checkpoints/unet_resnet34/$(NAME)
# What real trains on. A shell may leave ~ as it is in a word such as DATA=~/x.
DATA ?=
FROM := $(patsubst ~/%,$(HOME)/%,$(DATA))
MASKS := $(if $(FROM),$(shell for csv in "$(FROM)"/stage_2_train*.csv "$(FROM)"/*train*rle.csv; do \
	if [ -e "$$csv" ]; then echo "$$csv"; break; fi; done))
PNGS := $(if $(FROM),$(shell for folder in "$(FROM)" "$(FROM)"/*; do \
	if [ -d "$$folder/png_masks" ]; then echo "$$folder"; break; fi; done))
# How to find images and masks, instead of DATA: see python -m datasets.prepare --help.
PREPARE ?= $(if $(PNGS),--images "$(PNGS)/png_images" --masks "$(PNGS)/png_masks" \
	--names "$(PNGS)/stage_1_train_images.csv",--images "$(FROM)" --rle "$(MASKS)")
OWN_PREPARE := $(filter-out file,$(origin PREPARE))
# The name of the run, and of the folder of its data.
REAL_NAME := real
REAL := datasets/real_data/$(REAL_NAME)
REAL_RUNS := checkpoints
MODEL := smp:Unet:tu-tf_efficientnet_lite0
REAL_RUN := $(REAL_RUNS)/$(MODEL)/$(REAL_NAME)
# Flags that are added to the training, such as --folds all.
SETTINGS ?=
FOLDS := $(lastword $(shell echo " $(SETTINGS)" | grep -oE -- "--folds[= ]+[^ ]+" | tail -n 1 | tr "=" " "))
ELSEWHERE := $(filter --model_type% --model_path% --run_name% --dataset_root%,$(SETTINGS))
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help demo real test test-slow check
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1|/' | column -t -s '|'

demo: .venv/ready  ## from set-up to scored predictions, on synthetic X-rays (2 minutes, once installed)
	$(BIN)/python -m datasets.sample --out $(DEMO) --size 512
	$(BIN)/python -m datasets.prepare --images $(DEMO)/dicom-images-train --out $(DEMO)
	$(BIN)/python main.py --config recipes/demo.yaml --run_name $(NAME)
	$(BIN)/python -m datasets.sample --out $(UNSEEN) --size 512 --seed 1 --count 40
	$(BIN)/python -m datasets.prepare --images $(UNSEEN)/dicom-images-train --out $(UNSEEN)
	$(BIN)/python predict.py --run $(RUN) --images $(UNSEEN)/train_images \
		--out $(RUN)/submission.csv --overlays $(RUN)/overlays
	$(BIN)/python evaluate.py --submission $(RUN)/submission.csv --scores $(RUN)/scores.csv \
		--truth $(UNSEEN)/train-rle.csv --images $(UNSEEN)/train_images \
		--worst $(RUN)/worst.png --out $(RUN)/evaluation.json
	$(BIN)/python -m utils.report --run $(RUN) --submission $(RUN)/submission.csv \
		--truth $(UNSEEN)/train-rle.csv --images $(UNSEEN)/train_images
	@echo "pictures: $(RUN)/overlays/contact_sheet.png, $(RUN)/worst.png, $(RUN)/threshold.png"
	@echo "watch:    $(BIN)/tensorboard --logdir $(RUN)"
	@echo "report:   $(RUN)/report.html, to open in a browser"

real: .venv/ready  ## train on a download, DATA=DIR, without a GPU, and score
	@test -n "$(DATA)$(OWN_PREPARE)" || { echo "name the folder with the images and their masks: make real DATA=DIR"; exit 2; }
	@test -n "$(PNGS)$(MASKS)$(OWN_PREPARE)" || { echo "found no png_masks, no stage_2_train*.csv and no *train*rle.csv in $(FROM): name the folder that has the masks, or set PREPARE, see docs/training.md"; exit 2; }
	@test -z "$(ELSEWHERE)" || { echo "SETTINGS has $(ELSEWHERE), and the run would not be found: set MODEL=TYPE or REAL_NAME=NAME instead"; exit 2; }
	@case ",$(FOLDS)," in ,,|,all,|*,0,*) ;; *) \
		echo "SETTINGS has --folds $(FOLDS) without fold 0, which is the one that is scored: add it"; exit 2;; esac
	@# 1 means that an image was refused, and all others are converted.
	$(BIN)/python -m datasets.prepare $(PREPARE) --out $(REAL) || [ $$? -eq 1 ]
	if [ -n "$(FROM)" ] && [ -e "$(FROM)/patients.csv" ]; then cp "$(FROM)/patients.csv" $(REAL); fi
	$(BIN)/python train_sfold.py --config recipes/cpu.yaml --dataset_root $(REAL) \
		--model_type $(MODEL) --model_path $(REAL_RUNS) --run_name $(REAL_NAME) \
		--resume $$([ -e $(REAL_RUN)/config.yaml ] && echo true || echo false) --folds 0 \
		$$([ -e $(REAL)/patients.csv ] && echo --groups $(REAL)/patients.csv) $(SETTINGS)
	awk -F, 'NR == 1 { print "ImageId,EncodedPixels" } NR > 1 && $$2 == 0 { print $$1 ",-1" }' \
		$(REAL_RUN)/folds.csv > $(REAL_RUN)/held_out.csv
	$(BIN)/python predict.py --run $(REAL_RUN) --folds 0 --images $(REAL)/train_images \
		--sample_submission $(REAL_RUN)/held_out.csv --out $(REAL_RUN)/submission.csv \
		--overlays $(REAL_RUN)/overlays
	$(BIN)/python evaluate.py --submission $(REAL_RUN)/submission.csv --scores $(REAL_RUN)/scores.csv \
		--truth $(REAL)/train_mask --images $(REAL)/train_images --worst $(REAL_RUN)/worst.png
	@echo "pictures: $(REAL_RUN)/overlays/contact_sheet.png, $(REAL_RUN)/worst.png"
	@echo "report:   $(REAL_RUN)/report.html, to open in a browser"
	@echo "note:     the thresholds were chosen on the images that are scored, so the scores are slightly"
	@echo "          optimistic; after SETTINGS=\"--folds all\" the report has cross-fitted ones"

check: .venv/ready  ## linter, formatter and types (seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## check, and all tests that are quick (about 4 minutes on 2 cores)
	$(PYTEST) -m "not slow"

test-slow: .venv/ready  ## the other tests: long trainings, kills, several processes, the demo
	$(PYTEST) -m slow

.venv/ready: requirements.txt requirements-export.txt requirements-pretrained.txt requirements-dicom-seg.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	touch $@
