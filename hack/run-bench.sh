#!/bin/bash
# run-bench.sh [FLAGS OF test/bench]: pairs berth with its peers in network and mount namespaces of its own, so that
# bridges, firewall rules and mounts of all sides end with it. hack/save-bench.sh puts what it prints in docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/install-deps.sh docker.io podman conmon iptables linux-perf >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hack/make-images.sh "$work/layout" >/dev/null 2>&1
go build -o "$work/bench" ./test/bench
# As an installation writes them, and Debian's have been written: the kernel maps what the linker wrote in smaller pieces.
cp -r "${BERTH_BIN:-bin}" "$work/bin"
# A hierarchy lives on without its mount while it has groups, and removed ones take a moment, as does its end: containerd has
# no statistics of any container then.
end_hugetlb() {
	set +e
	for _ in $(seq 10); do
		find $hugetlb -mindepth 1 -depth -type d -exec rmdir {} \; 2>/dev/null
		umount $hugetlb
		for _ in $(seq 20); do
			grep -q :hugetlb: /proc/self/cgroup || break 2
			sleep 0.05
		done
		mount -t cgroup -o hugetlb cgroup $hugetlb
	done
	rmdir $hugetlb
}
inside() {
	set -eu
	ip link set lo up
	# crun refuses a hybrid host whose hugetlb controller is on the cgroup2 side.
	hugetlb=/sys/fs/cgroup/hugetlb
	if grep -qw hugetlb /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null && [ ! -e $hugetlb ]; then
		trap end_hugetlb EXIT
		mkdir $hugetlb
		mount -t cgroup -o hugetlb cgroup $hugetlb
	fi
	"$@"
}
export -f inside end_hugetlb
unshare --net --mount --propagation private bash -c 'inside "$@"' bash "$work/bench" -bin "$work/bin" -layout "$work/layout" "$@"
