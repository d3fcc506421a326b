#!/bin/bash
# Builds the newest peers that hack/peers/go.mod pins into .cache/peers, where tests look for them: Debian's are years older.
# Nothing of them is installed. Where one can't be built, as without a network, the tests that need it skip.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/.cache/peers
if [ -x "$dir/runc" ] && [ ! "$dir/runc" -ot hack/peers/go.sum ]; then
	exit 0
fi
mkdir -p "$dir"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A part of runc is C, and its filters are compiled by libseccomp.
build() {
	hack/install-deps.sh gcc libc6-dev libseccomp-dev pkg-config &&
		(cd hack/peers && CGO_ENABLED=1 go build -trimpath -tags seccomp -o "$dir/runc" github.com/opencontainers/runc)
}
if ! build >"$log" 2>&1; then
	echo "build-peers: the newest runc can't be built, tests that compare with it skip: $(tail -1 "$log")" >&2
	exit 0
fi
touch "$dir/runc"
