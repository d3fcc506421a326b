#!/bin/bash
# Runs the unit tests of arm64 under qemu's user emulation, which needs no arm64 machine. The emulation passes system
# calls on to this kernel, but does not know all of them; packages that need one of those are left out, each by name.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/install-deps.sh qemu-user-static
export GOARCH=arm64 CGO_ENABLED=0
excluded=(
	runtime/launch        # clone3
	runtime/nofile        # executes itself, which the host takes for a program of its own
	manager/bundle        # openat2
	manager/unpack        # openat2
	manager/volumes       # openat2
	shim/process          # fsopen, fsmount
	shim/reaper           # prctl(PR_SET_CHILD_SUBREAPER)
	shim/runtimecmd       # prctl(PR_SET_CHILD_SUBREAPER)
	cni-plugins/inprocess # netfilter sockets
	test/.*               # black-box tests, and those of the source text
)
patterns=$(printf '|%s' "${excluded[@]}")
mapfile -t packages < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... |
	grep -vE "^github.com/berthd/berth/(${patterns#|})\$")
go test -exec qemu-aarch64-static "${packages[@]}"
