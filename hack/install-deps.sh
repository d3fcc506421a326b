#!/bin/bash
# Installs what building, testing and the demo need and what is missing: Debian packages, and Go.
set -euo pipefail
packages=(
	busybox-static docker-registry skopeo umoci # images
	iproute2 nftables iputils-ping curl jq ca-certificates procps uidmap
	runc crun containerd containernetworking-plugins strace # peers that tests combine and compare with
)

missing() {
	for package in "$@"; do
		dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || echo "$package"
	done
}

# Services of freshly installed packages must not start: they are only run privately, by tests.
install() {
	[ "$(id -u)" = 0 ] || { echo "install-deps: run as root to install: $*" >&2; exit 1; }
	local policy=/usr/sbin/policy-rc.d made=''
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		made=yes
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "$@" >/dev/null || { [ -z "$made" ] || rm $policy; return 1; }
	[ -z "$made" ] || rm $policy
}

mapfile -t need < <(missing "${packages[@]}" "$@")
if [ ${#need[@]} -gt 0 ]; then
	echo "install-deps: installing ${need[*]}"
	apt-get update -qq
	install "${need[@]}"
fi

# Go older than 1.21 can't fetch the toolchain that go.mod names. Debian 12 has 1.19, its backports have a newer one.
export PATH=$PATH:/usr/local/go/bin:/usr/lib/go-1.23/bin GOTOOLCHAIN=auto
if ! go version 2>/dev/null | grep -qE 'go1\.(2[1-9]|[3-9][0-9])'; then
	# shellcheck source=/dev/null
	. /etc/os-release
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v security | head -n 1)
	echo "deb $mirror $VERSION_CODENAME-backports main" >/etc/apt/sources.list.d/berth-backports.list
	apt-get update -qq
	install -t "$VERSION_CODENAME-backports" golang-1.23-go
fi
