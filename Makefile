# What there is to do here: `make help`. CONTRIBUTING.md has the time each may take.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

ARGS      ?=
FUZZTIME  ?= 10s
FUZZ      ?= .
BENCH     ?= .
BENCHTIME ?= 100ms
MUTANTS   ?= .
KILLS     ?= 5
SEED      ?=
DURATION  ?= 1m

TOOL     := go tool -modfile=tools/go.mod
# Without those that are removed and not committed yet.
GO_FILES := for f in $$(git ls-files --cached --others --exclude-standard '*.go'); do [ ! -e "$$f" ] || echo "$$f"; done
WEB_DEPS := web/node_modules/.package-lock.json
E2E_DEPS := test/e2e/node_modules/.package-lock.json

.PHONY: help run build check format test race fuzz stateful crash conformance mutants bench e2e-deps clean need-go need-web need-test need-race need-crash

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: build ## start a server with its data in data/, open for sign-up, and print how to reach it; ARGS="--host NAME" adds flags
	@command -v node >/dev/null || echo 'Node is missing: the server does without, make check and make test do not.' >&2
	exec bin/cloudsignal serve --data data --sign-up open -o guide $(ARGS)

build: need-go ## build bin/cloudsignal
	@CGO_ENABLED=0 go build -trimpath -o bin/cloudsignal ./cmd/cloudsignal

check: need-web $(WEB_DEPS) ## format, vet, linters, the rules of the house, generated files up to date
	@echo "format"
	unformatted=$$($(TOOL) gofumpt -l $$($(GO_FILES)))
	if [ -n "$$unformatted" ]; then
		printf 'not formatted (make format):\n%s\n' "$$unformatted"
		exit 1
	fi
	echo "go.mod"
	go mod tidy -diff
	go -C test/interop mod tidy -diff
	echo "go vet"
	go vet ./...
	go -C test/interop vet ./...
	echo "linters"
	$(TOOL) golangci-lint run ./...
	(cd test/interop && go tool -modfile=../../tools/go.mod golangci-lint run --config ../../.golangci.yml ./...)
	echo "rules of the house"
	go test ./internal/archtest
	echo "web/dist"
	node web/build.mjs --check

format: need-go ## format every Go file
	@$(TOOL) gofumpt -w $$($(GO_FILES))

# Nothing from the cache: it does not know that test/script runs a program which is built of everything else.
test: need-test $(E2E_DEPS) ## all Go tests, with scenarios and scripts that run real clients
	@go test -count=1 ./...

# By GOFLAGS, so that the program that test/script builds watches for races too.
race: need-race need-test $(E2E_DEPS) ## the same with the race detector
	@GOFLAGS="$$(go env GOFLAGS) -race" go test -count=1 -timeout 15m ./...

fuzz: need-go ## every fuzz target for FUZZTIME=10s each; FUZZ=pattern for some
	@tools/fuzz '$(FUZZTIME)' '$(FUZZ)'

stateful: need-race ## random packets, right and wrong, of many clients against a model, for DURATION=1m; SEED=n repeats a plan
	@FUZZ_DURATION='$(DURATION)' FUZZ_SEED='$(SEED)' go test -race -count=1 -v -timeout 0 -run 'TestStateful$$' ./test/stateful

crash: need-crash ## kill the server KILLS=5 times at each QoS while clients work on it, and trace its syncs; SEED=n repeats a run
	@CRASH_KILLS='$(KILLS)' CRASH_SEED='$(SEED)' go test -count=1 -v -timeout 30m ./test/crash

conformance: need-go ## every statement of MQTT 5.0 and 3.1.1, over TCP, TLS and WSS; writes docs/conformance.md
	@go test -count=1 ./test/conformance -transports tcp,tls,wss -rewrite
	sed -n 's/^- \(MQTT .*\)/\1/p' docs/conformance.md

bench: need-go ## benchmarks, short; BENCH=pattern, BENCHTIME=100ms; compare two runs with: go tool -modfile=tools/go.mod benchstat
	@packages=$$(grep -l '^func Benchmark' $$($(GO_FILES)) | xargs -n 1 dirname | sort -u | sed 's|^|./|')
	go test -run '^$$' -bench '$(BENCH)' -benchtime '$(BENCHTIME)' -benchmem $$packages

mutants: need-go ## break the program, one line at a time: a test must notice each; MUTANTS=pattern for some
	@go run ./test/mutants '$(MUTANTS)'

e2e-deps: need-web $(E2E_DEPS) ## install what the programs in test/e2e need
	@

clean: ## remove what was built and installed here; data/ stays
	@rm -rf bin web/node_modules test/e2e/node_modules

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@cd $* && npm ci --no-audit --no-fund && touch node_modules/.package-lock.json

need-go:
	@tools/need go

need-web:
	@tools/need go node npm

need-test:
	@tools/need go node npm mosquitto_pub mosquitto_sub mosquitto_rr paho-python paho-c gcc openssl curl chromium strace

need-race:
	@tools/need gcc

need-crash:
	@tools/need go strace
