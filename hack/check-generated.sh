#!/bin/sh
# Fails if the generated code that is committed is not what the generators make of its sources.
set -eu
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
buf generate --output "$copy"
status=0
for file in $(cd "$copy" && find . -name '*.go'); do
	cmp -s "$copy/$file" "$file" || { echo "$file is stale: run make generate" >&2; status=1; }
done
for file in $(find proto -name '*.pb.go'); do
	[ -e "$copy/$file" ] || { echo "$file has no source any more: delete it" >&2; status=1; }
done
exit $status
