#!/bin/sh
# Fails if proto/ breaks clients of the newest release. Before the first release nothing can break.
set -eu
cd "$(dirname "$0")/.."
release=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || { echo "check-breaking: no release yet, nothing to break"; exit 0; }
buf breaking --against ".git#tag=$release"
