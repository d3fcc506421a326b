#!/bin/sh
# Builds every program for arm64 into bin/arm64/.
set -eu
cd "$(dirname "$0")/.."
export GOARCH=arm64 CGO_ENABLED=0
build() { go build -trimpath -tags grpcnotrace -ldflags='-s -w' -o "bin/arm64/$1" "$2"; }
build berth ./cli
build berthd ./manager
build containerd-shim-berth-v2 ./shim
build berth-runtime ./runtime
build berth-cni ./cni-plugins
build berth-contentstore ./contentstore/cmd/berth-contentstore
build berth-snapshotter ./snapshotter/cmd/berth-snapshotter
build berth-init ./manager/cmd/berth-init
