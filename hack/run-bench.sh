#!/bin/bash
# run-bench.sh [FLAGS OF test/bench]: pairs berth with its peers in network and mount namespaces of its own, so that
# bridges, firewall rules and mounts of all sides end with it. hack/save-bench.sh puts what it prints in docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."
hack/install-deps.sh docker.io podman conmon iptables linux-perf >&2
work=$(mktemp -d)
hugetlb=''
finish() {
	# A hierarchy lives on without its mount while it has groups.
	[ -z "$hugetlb" ] || { find /sys/fs/cgroup/hugetlb -mindepth 1 -depth -type d -exec rmdir {} \;; umount /sys/fs/cgroup/hugetlb; rmdir /sys/fs/cgroup/hugetlb; }
	rm -rf "$work"
}
trap finish EXIT
hack/make-images.sh "$work/layout" >/dev/null 2>&1
# crun refuses a hybrid host whose hugetlb controller is on the cgroup2 side.
if grep -qw hugetlb /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null && [ ! -e /sys/fs/cgroup/hugetlb ]; then
	mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb && hugetlb=yes
fi
go build -o "$work/bench" ./test/bench
unshare --net --mount --propagation private sh -c 'ip link set lo up; exec "$@"' sh "$work/bench" -bin "${BERTH_BIN:-bin}" -layout "$work/layout" "$@"
