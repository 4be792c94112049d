# Everything a newcomer runs. Only Python >= 3.11 and make are needed; the rest is fetched by setup.
#
#   ARGS="…"    passed on to the command            make demo ARGS="--operations 50000"
#   BUS=kafka   run over a real Kafka broker        make demo BUS=kafka
#   WORKERS=2   processes that run the tests    make test WORKERS=4
#   PYTHON=…    the Python that makes .venv         make setup PYTHON=python3.12

ifndef BUS
BUS := $(or $(DAYBOOK_BUS),log)
endif
ARGS ?=
KAFKA_PORT ?= 9092
WORKERS ?= 2
BIN  := .venv/bin
# Compiled modules are kept, also where a machine says not to: a process starts in half the time.
unexport PYTHONDONTWRITEBYTECODE
# DAYBOOK_BUS and DAYBOOK_KAFKA_BOOTSTRAP are read by infra/settings.py.
demo serve: export DAYBOOK_BUS := $(BUS)
ifeq ($(BUS),kafka)
demo serve: export DAYBOOK_KAFKA_BOOTSTRAP ?= 127.0.0.1:$(KAFKA_PORT)
BROKER := kafka
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test faults check lint schemas kafka kafka-stop kafka-jars bench profile soak docs clean

help: ## Show this list
	@echo "Daybook: an event-sourced payment ledger. Start with: make demo"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  BUS=kafka (demo, serve)   ARGS=\"…\" (demo, serve, test, bench)   PYTHON=… (setup)"

setup: .venv/.set-up ## Make .venv with the locked libraries (quick when nothing changed)

.venv/.set-up: requirements-dev.txt pyproject.toml infra/set_up.sh
	@./infra/set_up.sh

demo: setup $(BROKER) ## Post a generated payment day through HTTP and show the books
	@$(BIN)/daybook demo $(ARGS)

serve: setup $(BROKER) ## Serve the API with relay and consumers until interrupted
	@$(BIN)/daybook serve $(ARGS)

test: setup kafka-jars ## Run every test, against real PostgreSQL and a real Kafka broker
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

faults: setup kafka-jars ## Inject every fault under load and print the verdicts (SEED=… for other loads)
	@DAYBOOK_FAULTS_SEED=$(SEED) $(BIN)/python -m pytest -q tests/faults $(ARGS)

check: lint test ## What CI runs: lint, types, import contracts, tidy, tests

lint: setup ## The quick part of check: everything but the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/tidy

schemas: setup ## Write the JSON schemas of the ledger's events anew
	@$(BIN)/python -m ledger.event_schemas

kafka: setup ## Start a real Kafka broker on 127.0.0.1:9092 (Docker if it answers, else Maven + Java)
	@$(BIN)/python -m infra.kafka start --port $(KAFKA_PORT)

kafka-stop: ## Stop the broker that make kafka started
	@$(BIN)/python -m infra.kafka stop

kafka-jars: setup ## Fetch what a broker needs, so that the tests start theirs at once
	@$(BIN)/python -m infra.kafka fetch

bench: setup ## Run the benchmarks and print ratios
	@$(BIN)/python -m bench $(ARGS)

profile: setup ## Write where the time of a posting goes to bench/profile.txt
	@$(BIN)/python -m bench.profile > bench/profile.txt && cat bench/profile.txt

soak: setup $(BROKER) ## Random histories and faults against a model: MINUTES=3, SEED=…, ROUNDS=…
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),3) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(BROKER),--kafka 127.0.0.1:$(KAFKA_PORT))

docs: setup ## Run the README's tour again and write what it prints beside its commands
	@$(BIN)/python -m tests.docs.regenerate

clean: ## Remove everything that was made here: .venv, .daybook, caches
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m infra.kafka remove || true; fi
	@rm -rf .venv .daybook build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
