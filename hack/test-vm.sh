#!/bin/bash
# test-vm.sh: the runtime's tests and the demo on cgroup v2, AppArmor and Debian's own kernel, in a virtual machine.
# Emulation is slow: $BERTH_VM_TESTS narrows the tests (a pattern for go test -run).
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD
work=$(mktemp -d /var/tmp/berth-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
go test -c -o "$work/runtime.test" ./test/integration/runtime
go test -c -o "$work/checkpoint.test" ./test/integration/checkpoint
cat >"$work/run" <<RUN
set -e
export BERTH_BIN=${BERTH_BIN:-$repo/bin} TMPDIR=/data
modprobe -a bridge veth nf_tables nft_chain_nat nft_masq nft_fib_inet overlay 2>/dev/null || true
cd $repo/test/integration/runtime
echo "== the runtime on cgroup v2"
$work/runtime.test -test.v -test.timeout 25m -test.run '${BERTH_VM_TESTS:-.}' | grep -E '^(---|PASS|FAIL|ok|panic|=== NAME|\s+--- FAIL|.*_test.go)' 
cd $repo/test/integration/checkpoint
echo "== checkpoint and restore, which the host's kernel may be too new for"
$work/checkpoint.test -test.v -test.timeout 25m -test.run '${BERTH_VM_TESTS:-.}' | grep -E '^(---|PASS|FAIL|ok|panic|=== NAME|\s+--- FAIL|.*_test.go)'
echo "== the demo on cgroup v2"
cd $repo && hack/run-demo.sh
RUN
hack/vm/boot.sh -m 3072 -t 3600 -- bash -o pipefail "$work/run"
