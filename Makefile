# Two commands matter: `make serve` and `make test`. Both install what they need into .venv, once.
#
#   make serve      serve the bundled models on 127.0.0.1:8000 (BERTIE_PORT=9000 make serve: another port)
#   make test       ruff, mypy, then every test with coverage
#   make test-ray   scoring and serving on a real Ray cluster of this machine, in an environment of its own
#   make install    the CPU service alone, from the hash-pinned lock
#   make clients    install others' clients, which tests/clients tries; make test does it too
#   make check      ruff and mypy
#   make format     let ruff rewrite what it can
#   make models     rebuild the bundles in models/ from data: ENCODER=path DATA=path make models
#   make bench      Bertie against other servers, side by side; BENCH='--against REV': against a revision (wants a quiet machine)
#   make soak       100,000 requests of random shapes: does memory grow?
#   make gpu-check  on a machine with a GPU: the CUDA engine checked and measured
#   make lock       resolve the pinned dependencies again

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --quiet

# What the recipes of `make models` read: the data, and the folder of the pre-trained encoder.
export DATA    ?= ../shared/data
export ENCODER ?=
BUNDLES := sentiment nli qa sentiment-albert

# onnxruntime reports its use to its makers unless told not to before it is imported.
export ORT_DISABLE_TELEMETRY := 1

# A stamp is newer than what it was installed from, so the second `make serve` starts at once.
SERVICE := $(VENV)/.installed-service
MEASURE := $(VENV)/.installed-measure
DEV     := $(VENV)/.installed-dev
GPU     := $(VENV)-gpu/.installed
PEERS   := $(VENV)-bench/.installed
CLIENTS := $(VENV)-clients/.installed
RAY     := $(VENV)-ray/.installed

.DEFAULT_GOAL := help
.PHONY: clients help install serve test test-ray check format models gpu-check bench soak lock clean

help:
	@sed -n '/^#   make /s/^#   //p' Makefile

install: $(SERVICE)

serve: $(SERVICE)
	exec $(PY) -m service

# Tests of what measures, of attacks, and of what is due at a moment have the machine to themselves. The others share it.
ALONE  := tests/bench tests/chaos tests/service/scheduler tests/service/processes tests/service/test_main.py \
          tests/service/test_several.py tests/service/http/test_context.py tests/service/rollout/test_disagreements.py
SHARED := --numprocesses auto --dist loadfile
test: check $(CLIENTS)
	$(PY) -m pytest $(ALONE) --cov --cov-report=
	$(PY) -m pytest $(addprefix --ignore=,$(ALONE) tests/training) $(SHARED) \
	    --cov --cov-append --cov-report=term-missing:skip-covered --cov-fail-under=90
	$(PY) -m pytest tests/training $(SHARED)

clients: $(CLIENTS)

test-ray: $(RAY)
	$(VENV)-ray/bin/python -m pytest tests/ray

check: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(DEV)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# ---- installation ---------------------------------------------------------------------------------------------------

$(PY):
	$(PYTHON) -m venv $(VENV)

# The lock holds the build backend too: nothing that is installed here, or runs while installing, goes unhashed.
$(SERVICE): pyproject.toml requirements/cpu.lock | $(PY)
	$(PIP) install --require-hashes -r requirements/cpu.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# What the programs of bench/ need beside the service to measure it alone: make soak installs no torch.
$(MEASURE): requirements/constraints.txt $(SERVICE)
	$(PIP) install --no-build-isolation -c requirements/constraints.txt -e '.[cpu,measure]'
	@touch $@

# torch is bounded, not pinned: pip takes the build (CPU or CUDA) that the machine's index offers.
$(DEV): requirements/constraints.txt $(SERVICE)
	$(PIP) install --no-build-isolation -c requirements/constraints.txt -e '.[cpu,otel,grpc,remote,score,train,measure,dev]'
	@touch $@

# onnxruntime and onnxruntime-gpu overwrite each other's files, hence an environment of its own. No lock: torch says
# which CUDA libraries it wants, and onnxruntime shares them.
$(GPU): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --quiet install -c requirements/constraints.txt setuptools
	$(VENV)-gpu/bin/python -m pip --quiet install --no-build-isolation -c requirements/constraints.txt -e '.[gpu,train,measure]'
	@touch $@

# The servers that Bertie is measured against bring a hundred packages: they never touch the service's environment.
# BentoML wants another opentelemetry than the one that the tests' libraries brought.
$(PEERS): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)-bench
	grep -v '^opentelemetry' requirements/constraints.txt > $(VENV)-bench/constraints.txt
	$(VENV)-bench/bin/python -m pip --quiet install -c $(VENV)-bench/constraints.txt setuptools
	$(VENV)-bench/bin/python -m pip --quiet install --no-build-isolation -c $(VENV)-bench/constraints.txt -e '.[cpu,train,measure,bench]'
	@touch $@

# Ray brings its own bounds, of opentelemetry for one.
$(RAY): pyproject.toml
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip --quiet install -e '.[cpu,ray,dev]' 'onnx>=1.19,<2'
	@touch $@

# Others' clients, for tests/clients, have bounds of their own. Of huggingface_hub three older versions are in folders.
HUBS := 0.34 1.1.4 1.1

$(CLIENTS): requirements/clients.in
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip --quiet install -r requirements/clients.in
	for hub in $(HUBS); do \
	    $(VENV)-clients/bin/python -m pip --quiet install --upgrade --no-deps --target $(VENV)-clients/hub-$$hub \
	        "huggingface-hub==$$hub.*" || exit 1; \
	done
	@touch $@

# ---- models, GPU, measurements, locks -------------------------------------------------------------------------------

# int8 and w8a16: one copy of the weights for CPUs and GPUs, that a repository can hold. The gate makes fp32 too.
# The threshold for "no answer" is fitted on SQuAD 2.0; the answers themselves are scored on 1.1 as well.
# int8 is scored on all of both sets; fp32, which takes twice as long, on 600 questions spread over each.
# Golden rows are of Bertie's own texts: those of the dev sets are not ours to hand on.
MINILM := MiniLM-L6-H384-uncased
EXPORT_sentiment := --base-model $(MINILM) --licence 'Apache-2.0 (encoder); SST-2 is for research'
EXPORT_sentiment-albert := --base-model '$(MINILM), shrunk to an ALBERT' --licence 'Apache-2.0 (encoder); SST-2 is for research'
EXPORT_nli := --base-model $(MINILM) --licence 'Apache-2.0 (encoder); the data has a licence for each of its sources'
EXPORT_qa := --base-model $(MINILM) --licence 'Apache-2.0 (encoder); SQuAD is CC BY-SA 4.0' --gate-limit 600 \
  --dev $(DATA)/squad/dev-v1.1.json.xz --dev $(DATA)/squad/dev-v2.0.json.xz

models: $(BUNDLES:%=model-%)

model-%: runs/%/final
	$(PY) -m training export $< models/$* --precision int8 --precision w8a16 $(EXPORT_$*)
	$(PY) -m training golden models/$*

# A run is made once: remove its folder to have it made again.
.PRECIOUS: runs/%/final
runs/%/final: | $(DEV)
	@test -d "$$ENCODER" || { echo "make models: ENCODER must be the folder of a pre-trained encoder" >&2; exit 2; }
	$(PY) -m training finetune training/recipes/$*.toml

# What models/nli learns from; see its recipe. Each is a run of half an hour on 2 cores.
TEACH := $(PY) -m training finetune training/recipes/nli-teacher.toml
runs/nli/final: runs/nli-mean runs/nli-dropout/final

runs/nli-mean: runs/nli-teacher/final
	$(TEACH) --set model=$< --set output=runs/nli-longer --set epochs=0.6 --set learning_rate=1e-4
	$(PY) -m training average $@ $< runs/nli-longer/final --weights 0.7 0.3

runs/nli-dropout/final: | $(DEV)
	$(TEACH) --set output=runs/nli-dropout --set dropout=0.1 --set epochs=2 --set learning_rate=1.2e-4 --set seed=7 \
	    --set source_weights.mnli_pada=1 --set source_weights.mnli_llmsknow=1 \
	    --set source_weights.mnli_promptft=1 --set source_weights.mnli_taxinli=1

# What models/sentiment-albert begins as, an hour on one core, and what it learns from.
runs/sentiment-albert/final: runs/pretrain-albert-distilled/final runs/sentiment/final

runs/albert-shrunk: | $(DEV)
	$(PY) -m training shrink $(ENCODER) $@ $(DATA)/text/wikipedia-2014-sample.txt.xz

runs/pretrain-albert-distilled/final: runs/albert-shrunk
	$(PY) -m training pretrain training/recipes/pretrain-albert-distilled.toml

gpu-check: PY := $(VENV)-gpu/bin/python
gpu-check: $(GPU)
	$(PY) -m bench.gpu_check

# wrk, if it is installed (Debian: apt-get install wrk), takes less of the cores than the client written here.
BENCH ?=

bench: PY := $(VENV)-bench/bin/python
bench: $(PEERS)
	$(PY) -m bench $(BENCH)

soak: $(MEASURE)
	$(PY) -m bench.soak $(BENCH)

# No index and no local path may be written into a lock; torch and the CUDA libraries it brings are left to pip.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
           --custom-compile-command "make lock"

lock:
	$(COMPILE) --generate-hashes --extra cpu -o requirements/cpu.lock pyproject.toml requirements/build.in
	$(COMPILE) --generate-hashes --extra gpu -o requirements/gpu.lock pyproject.toml requirements/build.in
	$(COMPILE) --no-annotate --extra cpu --extra otel --extra grpc --extra remote --extra score --extra train \
	    --extra measure --extra dev -c requirements/cpu.lock \
	    -o requirements/constraints.txt pyproject.toml requirements/build.in
	sed -i -E '/^(torch|triton|nvidia-|cuda-)/d' requirements/constraints.txt
	$(COMPILE) --generate-hashes --extra otel --extra grpc --extra remote -c requirements/constraints.txt -o requirements/extras.lock pyproject.toml

clean:
	rm -rf $(VENV) $(VENV)-gpu $(VENV)-bench $(VENV)-clients $(VENV)-ray build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
