#!/bin/bash
# run-conformance.sh: runs the validation programs of opencontainers/runtime-tools with RUNTIME (bin/berth-runtime) and with
# PEER (runc), one after the other on the same machine, and compares them. It exits non-zero if RUNTIME passes fewer checks
# than PEER, or fails one that docs/conformance.md does not explain.
set -euo pipefail
cd "$(dirname "$0")/.."

# The programs mount, and one of them leaves its mounts behind: a mount namespace of our own takes them away.
[ -n "${CONFORMANCE_NAMESPACE:-}" ] || CONFORMANCE_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"

runtime=$(readlink -f "${RUNTIME:-bin/berth-runtime}")
peer=$(command -v "${PEER:-runc}" || true)
export CGO_ENABLED=0 # runtimetest runs where there is no libc
tools=$PWD/.cache/conformance
work=$(mktemp -d "${TMPDIR:-/tmp}/berth-conformance.XXXXXX")

# shellcheck disable=SC2317 # called by trap
finish() {
	find /sys/fs/cgroup -depth -type d \( -path '*/testdir/cgrouptest*' -o -path '*/testdir' -o -path '*/cgrouptest' \) -exec rmdir {} \; 2>/dev/null || true
	awk -v prefix="$work/" 'index($5, prefix) == 1 {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l
	rm -rf --one-file-system "$work"
}
trap finish EXIT

mkdir -p "$tools"
(cd hack/conformance && go build -o "$tools/" tool)
rootfs=$(cd hack/conformance && go list -m -f '{{.Dir}}' github.com/opencontainers/runtime-tools)/rootfs-$(go env GOARCH).tar.gz
cp "$rootfs" "$tools/runtimetest" "$work/"

# validate NAME RUNTIME writes what each program printed to $work/NAME/PROGRAM.tap.
validate() {
	local name=$1 program
	export RUNTIME=$2 TMPDIR=$work/tmp
	mkdir -p "$work/$name" "$TMPDIR"
	for program in "$tools"/*; do
		program=${program##*/}
		[ "$program" != runtimetest ] || continue
		(cd "$work" && timeout 120 "$tools/$program") >"$work/$name/$program.tap" 2>"$work/$name/$program.err" </dev/null ||
			echo "not ok - $program ended with status $?" >>"$work/$name/$program.tap"
	done
}
count() { cat "$work/$1"/*.tap | grep -cE "^ *$2" || true; }
# failures NAME prints the failed checks as PROGRAM: DESCRIPTION, without their numbers and without what differs between runs.
failures() {
	(cd "$work/$1" && grep -E '^ *not ok' ./*.tap) |
		sed -E 's#^\./([a-z_]+)\.tap: *not ok( [0-9]+)? ?-? ?#\1: #; s#[0-9a-f]{8}-[0-9a-f-]{27}#ID#g; s#/[^ ]*ocitest[0-9]+#BUNDLE#g; s#(target|mount|example)[0-9]{5,}#\1N#g' | sort | uniq
}

validate berth "$runtime"
printf '%-40s %6s ok %4s not ok\n' "$("$runtime" --version | head -n 1)" "$(count berth 'ok')" "$(count berth 'not ok')"
if [ -n "$peer" ]; then
	validate peer "$peer"
	printf '%-40s %6s ok %4s not ok\n' "$("$peer" --version | head -n 1)" "$(count peer 'ok')" "$(count peer 'not ok')"
	echo; echo "failed here only:"; comm -23 <(failures berth) <(failures peer)
	echo; echo "failed by the peer only:"; comm -13 <(failures berth) <(failures peer)
else
	echo "no peer: ${PEER:-runc} is not installed"
fi

status=0
while IFS= read -r failure; do
	grep -qF -- "\`$failure\`" docs/conformance.md || { echo "not explained in docs/conformance.md: $failure"; status=1; }
done < <(failures berth)
if [ -n "$peer" ] && [ "$(count berth 'ok')" -lt "$(count peer 'ok')" ]; then
	echo "fewer checks pass than with $peer"
	status=1
fi
[ -z "${KEEP:-}" ] || cp -r "$work/berth" "$KEEP"
exit $status
