# make demo | test | test-slow | wheel | bench | build | setup | format | lint | clean
# PRESET=cpu (default) or cuda; DATA=path for demo.
PRESET ?= cpu
export DATA
BUILD := build/$(PRESET)
# How far a build is, on a terminal alone.
NINJA := ninja $(if $(MAKE_TERMOUT),,--quiet)
CMAKE := $(if $(and $(filter cuda,$(PRESET)),$(wildcard .venv/bin/cmake)),.venv/bin/cmake,cmake)

.PHONY: help setup build test test-slow wheel demo demo-data bench format lint clean
help:
	@echo 'make demo       set up, build, train a small Sparse Transformer, and show what it learnt'
	@echo 'make test       set up, build and run the fast tests'
	@echo 'make test-slow  the slow tests; all rooms with sanitizers; readers and attention fuzzed'
	@echo 'make wheel      the Python package as a wheel in dist/, checked by auditwheel'
	@echo 'make bench      time attention against libtorch (JSON under bench/results/)'
	@echo 'make build      set up and build        make setup  install what is missing'
	@echo 'make format     clang-format in place   make lint   check format, headers, types'
	@echo 'PRESET=cpu|cuda chooses the build; DATA=path gives demo a file or folder to learn'

setup:
	@scripts/setup $(PRESET)

$(BUILD)/build.ninja: CMakeLists.txt CMakePresets.json
	@$(CMAKE) --preset $(PRESET) > $(BUILD).configure.log 2>&1 || \
	  (mkdir -p build; cat $(BUILD).configure.log; exit 1)

build: setup
	@mkdir -p build
	@$(MAKE) -s --no-print-directory $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD)

# The build folder of the package: with CUDA where there is a compiler for it.
WHEEL_PRESET := $(if $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc)),cuda,cpu)

wheel:
	@scripts/setup $(WHEEL_PRESET)
	@scripts/setup wheel
	@mkdir -p build
	@$(MAKE) -s --no-print-directory PRESET=$(WHEEL_PRESET) build/$(WHEEL_PRESET)/build.ninja
	@$(NINJA) -C build/$(WHEEL_PRESET) lace_python
	@scripts/wheel --check build/$(WHEEL_PRESET) dist

test: build
	@scripts/setup python
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -L fast

test-slow: build
	@scripts/setup dev
	@scripts/setup python
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -L slow
	@tests/python/install_anew $(BUILD)/python/dist
	@mkdir -p build
	@cmake --preset asan > build/asan.configure.log
	@$(NINJA) -C build/asan
	@ctest --test-dir build/asan --output-on-failure --no-tests=error
	@scripts/fuzz 30

demo-data:
	@[ -z "$$DATA" ] || [ -e "$$DATA" ] || { echo "make demo: DATA: there is no '$$DATA'" >&2; exit 1; }

demo: demo-data build
	@scripts/demo $(BUILD)/bin/lace $${DATA:+--data "$$DATA"}

bench: build
	@mkdir -p bench/results
	$(BUILD)/bin/lace bench attention --json > bench/results/attention.json
	@echo 'wrote bench/results/attention.json'

SOURCES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
format:
	@scripts/setup dev
	@clang-format -i $(SOURCES)

lint:
	@scripts/setup dev
	@clang-format --dry-run --Werror $(SOURCES)
	@scripts/setup wheel
	@.venv-python/bin/mypy
	@! grep -nE '#include "\.\./' $(SOURCES) || (echo 'includes are written from include/ or src/'; exit 1)

clean:
	rm -rf build
