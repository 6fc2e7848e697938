# make demo and make test do all of their own set-up; a second call does not install again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
GPU_VENV := .venv-gpu
CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 13) else "needs Python 3.10, 3.11 or 3.12: make PYTHON=python3.11 ...")'

# In two runs: a process that has had every engine and every data set in it is a large one. The second has every test
# that needs an export, so that it is made once. Files are taken in this order, so that none of the long ones is last.
# One worker more than there are cores, since many wait for a server; 4 at most, for the memory.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(len(os.sched_getaffinity(0)) + 1, 4))')
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
  -m "not slow and not gpu and not soak and not demo and not cases"
GPU_TESTS := tests/export/test_gpu_tensorrt.py tests/export/test_gpu_aoti.py tests/training/test_gpu.py tests/training/test_torch_synthesizer.py
DEVICE := cuda
SECONDS := 900
EVALUATE := tests/training/evaluation/test_evaluate_command.py

# pip compiles none of the packages: most of their modules are never imported, and the others are compiled when they are.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-check studio test lint unit cases docs wheel slow soak render-ceiling gateway-cost gpu gpu-report bench bench-engine bench-check train-speed train-demo table camvid-table styled-model demo-weights demo-evaluation clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / — /'

$(INSTALLED): pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	@echo 'installing SceneLoom, PyTorch, ONNX Runtime, OpenVINO and the bundled Triton server into $(VENV), once:'
	@echo '2 to 10 minutes, by the network; 3 GB, or 7 GB where pip takes the CUDA build of torch'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt \
	  torch -e '.[train,export,serve,embedded,datasets,ray,gateway,https,otel,bench,dev]'
	touch $@

demo: $(INSTALLED)  ## draw streets, export, serve through Triton, render at 2048x1024: build/demo/index.html
	$(BIN)/python examples/street_demo/demo.py --out build/demo

demo-check: $(INSTALLED)  ## look at what make demo wrote, and serve it again
	$(BIN)/python -m pytest tests/examples -m demo

studio: $(INSTALLED)  ## paint label maps in a browser and see the photographs: prints the page's address
	$(BIN)/sceneloom studio --open

test: lint unit  ## lint, types and every test that is not slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v npm > /dev/null; then npm ci --prefix gateway --silent && npm run check --prefix gateway --silent; \
	else echo 'no npm here: the types of the studio are not checked'; fi

unit: $(INSTALLED)
	$(TESTS) --ignore $(EVALUATE) tests/training tests/client tests/test_damaged_files.py tests/test_docs.py tests/streets
	$(TESTS) tests/benchmarks tests/examples $(EVALUATE) tests/export tests/serving tests/gateway tests/deploy

cases: $(INSTALLED)  ## inputs and situations that failed before, of ../shared/cases where that is there
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m cases -k "$(CASES)" --durations=5 tests/test_cases.py

docs: $(INSTALLED)  ## make docs/commands.md from the commands' parsers
	$(BIN)/python tests/command_reference.py

wheel: $(INSTALLED)  ## build the wheel, install it in empty environments, export and serve from it
	$(BIN)/python tests/wheel/check_wheel.py $(WHEEL)

slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu and not cases"

soak: $(INSTALLED)  ## kill training runs, and rendering and its server, at many moments: docs/results
	$(BIN)/python -m pytest -m soak -s
	$(BIN)/python benchmarks/experiments/render_limits.py soak --out docs/results

render-ceiling: $(INSTALLED)  ## what the client can do at 2048x1024, beside bare loops, measured: docs/results
	$(BIN)/python benchmarks/experiments/render_limits.py ceiling --out docs/results

# An environment of its own: .venv has the CPU's build of ONNX Runtime, whose files are those of the GPU's.
$(GPU_VENV)/.installed: pyproject.toml constraints.txt
	@command -v nvidia-smi > /dev/null || { echo 'make gpu and make gpu-report need an NVIDIA GPU and its driver: this machine has no nvidia-smi'; exit 1; }
	$(CHECK_PYTHON)
	@echo 'installing SceneLoom, PyTorch, ONNX Runtime and TensorRT for GPUs, and the bundled Triton into $(GPU_VENV), once: 10 GB'
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --upgrade pip
	$(GPU_VENV)/bin/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt \
	  -e '.[train,export-gpu,embedded,bench,dev]'
	touch $@

gpu: $(GPU_VENV)/.installed  ## the tests that need an NVIDIA GPU, in .venv-gpu
	$(GPU_VENV)/bin/python -m pytest -m gpu $(GPU_TESTS)

# A dry run: make gpu-report DEVICE=cpu SECONDS=300 FLAGS="--size 128x64 --ngf 4 --blocks 1 --engines openvino-fp32 aoti-fp32"
gpu-report: $(if $(filter cpu,$(DEVICE)),$(INSTALLED),$(GPU_VENV)/.installed)  ## all that only a GPU can show, within SECONDS: benchmarks/results
	$(<D)/bin/python benchmarks/experiments/gpu_report.py --device $(DEVICE) --seconds $(SECONDS) --tests $(GPU_TESTS) $(FLAGS)

bench: $(INSTALLED)  ## every benchmark on this machine, on its GPU if it has one (about an hour on two cores; resumes): benchmarks/results
	$(BIN)/sceneloom bench suite

bench-engine: $(INSTALLED)  ## of them, every engine beside PyTorch, in turn, at 2048x1024
	$(BIN)/sceneloom bench suite --only engine

bench-check: $(INSTALLED)  ## ratios that must hold on every machine, measured in one run: benchmarks/regression_limits.json
	$(BIN)/python benchmarks/experiments/regression.py --out build/bench-check

gateway-cost: $(INSTALLED)  ## the gateway beside direct gRPC at 2048x1024, measured: docs/results
	$(BIN)/python benchmarks/experiments/gateway_cost.py --out docs/results

train-speed: $(INSTALLED)  ## the training step beside the published recipe, measured: docs/results
	$(BIN)/python benchmarks/experiments/training_step.py --out docs/results

train-demo: $(INSTALLED)  ## train on procedural streets (some ten minutes on two quiet cores): docs/results
	$(BIN)/sceneloom train training/configs/demo.toml --out runs/demo
	$(BIN)/python benchmarks/experiments/training_curves.py runs/demo --out docs/results --name demo-training

table: $(INSTALLED)  ## the method's table on procedural streets (hours; resumes): docs/results/method-table
	$(BIN)/python benchmarks/experiments/method_table.py streets

camvid-table: $(INSTALLED)  ## the same on the photographs of CamVid in the folder CAMVID (hours; resumes): docs/results/method-table-camvid
	$(BIN)/python benchmarks/experiments/method_table.py camvid --camvid "$(CAMVID)"

styled-model: $(INSTALLED)  ## train a styled model on procedural streets, and see what drawn styles lose: docs/results/styled-model
	$(BIN)/python benchmarks/experiments/styled_model.py --out docs/results/styled-model

demo-weights: $(INSTALLED)  ## train the demo's weights (hours; resumes): examples/street_demo/generator
	$(BIN)/python benchmarks/experiments/demo_weights.py make

demo-evaluation: $(INSTALLED)  ## evaluate the demo's weights at 2048x1024: docs/results/demo-weights
	$(BIN)/python benchmarks/experiments/demo_weights.py evaluate --out docs/results/demo-weights

clean:  ## remove everything that was built or installed
	rm -rf build dist $(VENV) $(GPU_VENV)
