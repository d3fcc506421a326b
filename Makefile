# Each target is one line that calls go, a pinned tool or a script of hack/. `make help` lists them.
export CGO_ENABLED := 0
export GOTOOLCHAIN := auto
TOOLS := $(CURDIR)/.cache/tools
export PATH := $(TOOLS):$(PATH):/usr/local/go/bin:/usr/lib/go-1.23/bin
# grpcnotrace: without it gRPC brings net/http pages of traces and html/template along, 3 MB of berthd.
# Programs tell the commit they are built from, where git can be asked.
VCS := $(shell git status --porcelain >/dev/null 2>&1 && echo true || echo false)
GO_BUILD := go build -trimpath -buildvcs=$(VCS) -tags grpcnotrace -ldflags='-s -w'
BINARIES := bin/berth bin/berthd bin/containerd-shim-berth-v2 bin/berth-runtime bin/berth-cni bin/berth-contentstore bin/berth-snapshotter bin/berth-init
GO_FILES := $(shell find . -name "*.go" -not -path "./.cache/*" 2>/dev/null) $(shell find runtime manager -name "*.json" -not -path "*/testdata/*" 2>/dev/null) go.mod go.sum
# What some tests drive or compare with. They skip with a reason where it is missing.
TEST_PACKAGES := docker.io podman conmon iptables criu
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help demo test check build build-arm64 test-arm64 test-arm64-vm unit integration lint fmt generate check-generated test-vm conformance bench install uninstall deps test-deps clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: deps build ## build all, start a private daemon and registry, run the main job on real images, clean up
	@hack/run-demo.sh

test: test-deps build unit integration ## set up, build, and run every test: unit, structure, black box (as root)

check: lint check-generated test ## what CI runs

build: $(BINARIES) ## build every program into bin/

build-arm64: ## build every program for arm64 into bin/arm64/
	@hack/build-arm64.sh

test-arm64: deps ## unit tests of arm64, under qemu's user emulation
	hack/test-arm64.sh

test-arm64-vm: deps ## the runtime's tests and more on a kernel of arm64, in an emulated machine; TEST=pattern, all without
	hack/test-arm64-vm.sh '$(TEST)'

unit: ## tests beside the code, and test/arch
	go test $$(go list ./... | grep -v /test/) ./test/arch/...
	cd test/filters && go test ./...

integration: build ## black-box tests over bin/, as root
	go test -count=1 -p 2 -timeout 20m ./test/integration/... ./test/script/...

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## golangci-lint, for amd64 and arm64, and buf
	golangci-lint run ./...
	GOARCH=arm64 go vet ./...
	buf lint
	hack/check-breaking.sh

fmt: $(TOOLS)/golangci-lint ## format all Go files
	golangci-lint fmt ./...

generate: $(TOOLS)/buf ## generate Go from proto/ and what go:generate names
	buf generate
	go generate ./...

check-generated: $(TOOLS)/buf ## fail if generated code is stale
	hack/check-generated.sh

test-vm: deps build ## tests on cgroup v2, AppArmor and systemd, in virtual machines; PART="runtime-1 systemd …", all without
	hack/test-vm.sh $(PART)

conformance: deps build ## the OCI validation programs with berth-runtime and with runc, compared
	hack/run-conformance.sh

bench: deps build ## pair berth with crun, runc, containerd, dockerd and podman; ratios to docs/benchmarks.md
	hack/save-bench.sh

install: build ## install programs and systemd units below PREFIX (/usr/local), for packagers inside DESTDIR
	hack/install.sh install '$(PREFIX)' '$(DESTDIR)'

uninstall: ## remove what install put below PREFIX
	hack/install.sh uninstall '$(PREFIX)' '$(DESTDIR)'

deps: ## install what building and testing need: Go, Debian packages
	@hack/install-deps.sh

test-deps:
	@hack/install-deps.sh $(TEST_PACKAGES)
	@hack/fetch-criu.sh
	@hack/build-peers.sh

clean: ## remove what was built
	rm -rf bin .cache

bin/berth: $(GO_FILES)
	$(GO_BUILD) -o $@ ./cli
bin/berthd: $(GO_FILES)
	$(GO_BUILD) -o $@ ./manager
bin/containerd-shim-berth-v2: $(GO_FILES)
	$(GO_BUILD) -o $@ ./shim
bin/berth-runtime: $(GO_FILES)
	$(GO_BUILD) -o $@ ./runtime
bin/berth-cni: $(GO_FILES)
	$(GO_BUILD) -o $@ ./cni-plugins
bin/berth-contentstore: $(GO_FILES)
	$(GO_BUILD) -o $@ ./contentstore/cmd/berth-contentstore
bin/berth-snapshotter: $(GO_FILES)
	$(GO_BUILD) -o $@ ./snapshotter/cmd/berth-snapshotter
bin/berth-init: $(GO_FILES)
	$(GO_BUILD) -o $@ ./manager/cmd/berth-init

$(TOOLS)/%: hack/tools/go.mod hack/tools/go.sum
	hack/install-tools.sh $(TOOLS)
