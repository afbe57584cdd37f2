# `make run` and `make test` work on a fresh Debian or Ubuntu with Rust (https://rustup.rs): what else
# is missing is installed, with sudo unless you are root.

SHELL := /bin/sh
PROFILE ?= ci
DIST_PROFILE ?= release
CONFIG ?= proxy.yaml
TARGET := $(or $(CARGO_TARGET_DIR),target)
LARDER := $(TARGET)/$(PROFILE)/larder
CLIENTS := target/clients

.PHONY: help run demo test setup clients origins zoo matrix sdks runtimes dist newcomer

help:
	@echo "make run     build larder and serve $(CONFIG)"
	@echo "make demo    in a second terminal: a fake API, and what larder makes of it"
	@echo "make test    run all tests, real clients and real web servers among them"
	@echo "make zoo     run the tests with real web servers alone, and count what is different"
	@echo "make sdks    run real SDKs with an API that fails, direct and through larder exec"
	@echo "make dist    make an archive with a static program, for other machines, in target/dist"
	@echo "make matrix  run the real clients of many languages through larder exec"
	@echo
	@echo "PROFILE=release builds what is installed: faster to run, minutes longer to build."

run: setup
	@[ -x $(LARDER) ] || echo "The first build takes about six minutes."
	cargo build --profile $(PROFILE)
	@echo "To see it work, type \`make demo\` in a second terminal."
	$(LARDER) run $(CONFIG)

# Asks the fake Discord through a larder that `make run` started, with proxy.yaml as it is.
demo:
	@curl -q -sf -o /dev/null http://127.0.0.1:9901/healthz || \
	    { echo "First, in another terminal: make run"; exit 1; }
	@$(LARDER) fake discord --json & fake=$$!; trap 'kill $$fake' EXIT; sleep 1; \
	ask() { printf '%-34s' "$$1"; curl -q -sSi -x http://127.0.0.1:8080 \
	    http://discord.example.test/api/v10/guilds/1/roles | grep -i '^cache-status:'; }; \
	ask "the first request:" && ask "the second:" && \
	sleep 6 && ask "after its ttl of 5s:" && ask "refreshed behind your back:" && \
	curl -q -sS -o /dev/null -d '{"fault": {"status": 503}}' http://127.0.0.1:9001/_fake/behave && \
	echo "... now the API fails ..." && \
	sleep 16 && ask "an error that you do not see:"

test: setup runtimes origins
	@if cargo nextest --version >/dev/null 2>&1; then \
	    cargo nextest run && cargo test --doc; \
	else \
	    cargo test --no-fail-fast; \
	fi

# A C compiler and cmake build zlib-ng and ring.
setup:
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
	@missing=; \
	command -v cc >/dev/null || missing="$$missing build-essential"; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	$(INSTALL_MISSING)

# The real clients of the tests. Without them (no network, say) the tests name what they skip.
clients:
	@missing=; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	( $(INSTALL_MISSING) ) || true
	@$(CLIENTS)/bin/python3 -c 'import $(PYTHON_CLIENTS)' 2>/dev/null || { \
	    echo "Installing $(PYTHON_CLIENTS) into $(CLIENTS)"; \
	    python3 -m venv $(CLIENTS) && \
	    $(CLIENTS)/bin/pip install --quiet --disable-pip-version-check \
	        $$(echo '$(PYTHON_CLIENTS)' | tr , ' '); \
	} || echo "$(PYTHON_CLIENTS) could not be installed: their tests will be skipped"

PYTHON_CLIENTS := requests, httpx, aiohttp, urllib3

# The web servers of the tests. What Debian starts as a service when it is installed is stopped again.
origins: clients
	@PATH="$$PATH:/usr/sbin"; missing=; services=; \
	command -v nginx >/dev/null || { missing="$$missing nginx"; services="$$services nginx"; }; \
	command -v lighttpd >/dev/null || \
	    { missing="$$missing lighttpd"; services="$$services lighttpd"; }; \
	[ -e /usr/lib/lighttpd/mod_openssl.so ] || missing="$$missing lighttpd-mod-openssl"; \
	command -v apache2 >/dev/null || missing="$$missing apache2-bin"; \
	command -v haproxy >/dev/null || \
	    { missing="$$missing haproxy"; services="$$services haproxy"; }; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	command -v go >/dev/null || missing="$$missing golang-go"; \
	( $(INSTALL_MISSING); \
	  [ -z "$$services" ] || $$sudo systemctl disable --now $$services >/dev/null 2>&1 ) || true
	@missing=; \
	[ -e /usr/lib/nginx/modules/ngx_http_brotli_filter_module.so ] || \
	    missing=libnginx-mod-http-brotli-filter; \
	( $(INSTALL_MISSING) ) || true
	@[ -x $(CLIENTS)/bin/hypercorn ] || \
	    $(CLIENTS)/bin/pip install --quiet --disable-pip-version-check hypercorn || \
	    echo "hypercorn could not be installed: its tests will be skipped"

# Its last line is how many exchanges there were with how many origins, and how many were different.
zoo: setup origins
	@cargo test --test suite zoo:: 2>&1 | awk -f tests/zoo/sum.awk

# The runtimes that .ci/run covers besides.
runtimes: clients
	@missing=; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	command -v go >/dev/null || missing="$$missing golang-go"; \
	command -v javac >/dev/null || missing="$$missing default-jdk-headless"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	( $(INSTALL_MISSING) ) || true
	@[ -d $(CLIENTS)/node_modules/undici ] || \
	    npm install --prefix $(CLIENTS) --silent --no-fund --no-audit undici@6 || \
	    echo "undici could not be installed: its test will be skipped"

# All clients of docs/clients.md that are there; what is missing is named and skipped.
matrix: setup runtimes
	@missing=; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	command -v wget >/dev/null || missing="$$missing wget"; \
	command -v ruby >/dev/null || missing="$$missing ruby"; \
	php -r 'curl_init();' >/dev/null 2>&1 || missing="$$missing php-cli php-curl"; \
	( $(INSTALL_MISSING) ) || true
	@[ -d $(CLIENTS)/node_modules/node ] || \
	    npm install --prefix $(CLIENTS) --silent --no-fund --no-audit axios got node@24 || \
	    echo "axios, got and Node 24 could not be installed: they will be skipped"
	cargo build --profile $(PROFILE) --bin larder
	cargo run --profile $(PROFILE) --example clients

# Real SDKs, whose API is dead, hangs, limits or fails them; minutes long, as their retries are.
sdks: setup clients
	@missing=; command -v npm >/dev/null || missing="$$missing npm"; ( $(INSTALL_MISSING) ) || true
	@$(CLIENTS)/bin/python3 -c 'import openai, discord' 2>/dev/null || \
	    $(CLIENTS)/bin/pip install --quiet --disable-pip-version-check $(PYTHON_SDKS) || \
	    echo "the SDKs for Python could not be installed: they will be skipped"
	@[ -d $(CLIENTS)/node_modules/openai ] || \
	    npm install --prefix $(CLIENTS) --silent --no-fund --no-audit $(NODE_SDKS) || \
	    echo "the SDKs for Node could not be installed: they will be skipped"
	cargo build --profile $(PROFILE) --bin larder
	cargo run --profile $(PROFILE) --example sdks

PYTHON_SDKS := openai anthropic stripe PyGithub boto3 slack_sdk discord.py requests
NODE_SDKS := openai got stripe @octokit/core @octokit/plugin-retry @octokit/plugin-throttling

# Its last lines say which C library the program was linked against, and what it needs.
dist: setup
	@PROFILE=$(DIST_PROFILE) deploy/dist.sh

# From a clean clone to the first cached call of a real SDK, as the README describes it.
newcomer: setup
	@tests/newcomer.sh

# Installs $$missing, if there is anything in it.
INSTALL_MISSING = \
	if [ -n "$$missing" ]; then \
	    if ! command -v apt-get >/dev/null; then echo "Please install:$$missing"; exit 1; fi; \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    echo "Installing$$missing"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    $$sudo apt-get install --yes --no-install-recommends $$missing >/dev/null 2>&1 || \
	    { $$sudo apt-get update >/dev/null && \
	      $$sudo apt-get install --yes --no-install-recommends $$missing >/dev/null; }; \
	fi
