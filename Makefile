# What people and CI run. Targets with a comment after ## are listed by `make help`.

.PHONY: help run demo postgres dashboard test format lint docs test-rust test-dashboard test-browser \
	conformance fuzz bench bench-dashboard soak screenshots have-cargo have-node have-python
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Running

# Nobody needs a Postgres of their own who named a running one.
own_postgres = test -n "$$DATABASE_URL$$PGHOST" || scripts/postgres.sh

run: have-cargo dashboard ## run the server and its dashboard, with a Postgres of its own unless DATABASE_URL is set
	@$(own_postgres)
	@exec cargo run --locked --release -- serve

demo: have-cargo dashboard ## let things happen on the server that `make run` started in another terminal
	@exec cargo run --locked --release -- demo

postgres: ## make sure that there is a PostgreSQL to run: find one or fetch one
	@scripts/postgres.sh

dashboard: dashboard/dist/index.html ## build the dashboard that the server embeds

dashboard_sources := $(shell find dashboard/src dashboard/public -type f 2>/dev/null) \
	$(wildcard dashboard/*.html dashboard/*.config.* dashboard/package.json dashboard/tsconfig*.json)

dashboard/dist/index.html: dashboard/node_modules/.package-lock.json $(dashboard_sources)
	cd dashboard && npm run build
	@touch $@

# npm writes this file when it has installed everything: it says which lock file that was.
dashboard/node_modules/.package-lock.json: dashboard/package-lock.json | have-node
	cd dashboard && npm ci --no-audit --no-fund
	@touch $@

# Checking

test: have-cargo have-node postgres format lint docs test-rust test-dashboard test-browser ## everything that CI runs

format: have-cargo ## is everything formatted?
	cargo fmt --check

lint: have-cargo ## clippy, with warnings as errors
	cargo clippy --locked --all-targets -- -D warnings

docs: have-cargo ## do the docs build, with all their links?
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

test-rust: have-cargo postgres dashboard ## unit and integration tests, on a real Postgres
	@scripts/test-tools.sh
	cargo test --locked

test-dashboard: dashboard/node_modules/.package-lock.json ## the dashboard's types, lint and unit tests
	cd dashboard && npm run check && npm run lint && npm run test

test-browser: have-cargo postgres dashboard ## the dashboard in a real browser, on a real server
	cargo build --locked
	@scripts/browser-tests.sh

screenshots: have-cargo postgres dashboard ## take the pictures in docs/ anew
	cargo build --locked
	@scripts/browser-tests.sh --config screenshots.config.ts

# Looking for what nobody thought of: not part of `make test`, as it takes minutes

# `make conformance EXAMPLES=200 SEED=7` for more of it and other of it.
conformance: have-cargo have-python postgres ## drive every operation of the OpenAPI document with schemathesis
	@mkdir -p dashboard/dist
	cargo build --locked
	@$(if $(EXAMPLES),EXAMPLES=$(EXAMPLES)) $(if $(SEED),SEED=$(SEED)) python3 scripts/conformance/run.py

# `make fuzz only=rows seconds=600` for one target, for longer.
fuzz: have-cargo ## give every parser of foreign bytes random ones, 30 seconds each
	@scripts/fuzz.sh $(if $(seconds),--seconds $(seconds)) $(only)

# Measuring

# `make bench only="fan-out latency"` for some of it, `make bench quick=1` to try the bench itself.
bench: have-cargo postgres dashboard ## measure rates, latencies and memory on this machine: benches/RESULTS.md
	@cargo bench --locked --bench newcycle -- $(only) $(if $(quick),--quick)

# `make bench-dashboard HOURS=1` to try the bench itself: it writes nothing then.
bench-dashboard: have-cargo postgres dashboard ## measure the page, cold and open for a day: docs/dashboard-figures.md
	cargo build --locked --release
	@$(if $(HOURS),HOURS=$(HOURS)) NEWCYCLE_BINARY=$${CARGO_TARGET_DIR:-target}/release/newcycle \
		scripts/browser-tests.sh --config bench.config.ts

# `make soak MINUTES=5` to try it: the report is target/soak.md then.
soak: have-cargo postgres dashboard ## break everything again and again for an hour, and report: docs/soak.md
	cargo build --locked --release
	@NEWCYCLE_BINARY=$$(realpath $${CARGO_TARGET_DIR:-target}/release/newcycle) SOAK_MINUTES=$(MINUTES) \
		cargo test --locked --test it -- --ignored --exact --nocapture \
		soak::for_an_hour_nothing_is_lost_nothing_is_doubled_and_memory_is_flat

# What cannot be fetched for you

have-cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.94 or later" >&2; exit 1; }

have-python:
	@python3 -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "python3 is missing or too old: install Python 3.10 or later, with its module venv" >&2; exit 1; }

have-node:
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || \
		{ echo "node and npm are missing or too old: install Node.js 20 or later" >&2; exit 1; }
