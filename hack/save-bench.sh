#!/bin/bash
# save-bench.sh [FLAGS OF test/bench]: runs the benchmarks, and puts what they print below the marker in docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."
document=docs/benchmarks.md
marker='<!-- below: the output of make bench -->'
new=$(mktemp)
trap 'rm -f "$new"' EXIT
sed "/^$marker\$/q" $document >"$new"
echo >>"$new"
hack/run-bench.sh "$@" | tee -a "$new"
cat "$new" >$document
