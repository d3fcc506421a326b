#!/bin/sh
# install-tools.sh DIR: builds the tools that hack/tools/go.mod pins into DIR.
set -eu
dir=$1
mkdir -p "$dir"
cd "$(dirname "$0")/tools"
go build -trimpath -o "$dir/" github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc github.com/golangci/golangci-lint/v2/cmd/golangci-lint
touch "$dir"/*
