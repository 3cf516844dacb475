# What people type. Every target makes its own set-up; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
SOURCES := gateway matcher rules audit tests bench hatch_build.py

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup:  ## install what is missing (apt packages as root, .venv), nothing else
	@scripts/setup

demo: setup  ## as root: a small internet in namespaces, and what `egress run` does with it
	$(PY) -m tests.lab.demo

test: setup lint types layers  ## everything; as root the namespace tests too
	$(PY) -m pytest

test-root: setup  ## the namespace tests alone (root)
	$(PY) -m pytest -m root

lint: setup  ## ruff: format and lint
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)

types: setup  ## mypy, strict
	.venv/bin/mypy $(SOURCES)

layers: setup  ## who may import whom
	.venv/bin/lint-imports

fuzz: setup  ## atheris: the fast parsers against the plain ones; then a flood at the DNS guard
	@scripts/fuzz

soak: setup  ## as root: 2,000,000 hostile connections (SOAK_CONNECTIONS), and whether the gateway grows
	$(PY) -m tests.soak

bench: setup  ## as root, 20 minutes: this gateway beside the proxies people would use, and how cost grows; into bench/results/
	$(PY) -m bench $(BENCH)

bench-quick: setup  ## the same in 3 minutes, into .benchmarks/
	$(PY) -m bench --quick --out .benchmarks $(BENCH)

bench-micro: setup  ## what the parts cost, one by one, and start-up; into bench/results/
	$(PY) -m bench.micro
	$(PY) -m bench.seccomp
	$(PY) -m bench.startup

.PHONY: help setup demo test test-root lint types layers fuzz soak bench bench-quick bench-micro
