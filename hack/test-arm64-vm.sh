#!/bin/bash
# test-arm64-vm.sh [PATTERN]: runs on Debian's kernel for arm64, which qemu emulates a machine for, what its user emulation
# (test-arm64.sh) can't: the unit tests that need newer system calls, and the runtime's black-box tests, or those that match
# the pattern. Nothing of the host is in the machine: its root is a RAM disk with some of Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."
pattern=${1:-.}
cache=${BERTH_VM_CACHE:-/var/cache/berth-vm}/arm64
packages=(
	runtime/launch runtime/nofile manager/bundle manager/unpack manager/volumes shim/process shim/reaper shim/runtimecmd
)
userland=(bash dash coreutils util-linux mount findutils grep sed gawk procps runc uidmap busybox-static iproute2 kmod)
modules=(overlay veth null_blk bfq) # those that tests want

work=$(mktemp -d /var/tmp/berth-arm64.XXXXXX)
qemu=''
# shellcheck disable=SC2317 # called by trap
finish() {
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# fetch leaves the kernel and the packages, unpacked, in the cache. To apt this is a machine of its own, with nothing on it.
fetch() {
	local apt=$work/apt mirror package
	mkdir -p "$apt"/{lists,archives}/partial "$work/root/usr"/{bin,sbin,lib} "$work/kernel"
	touch "$apt/status"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | head -n 1)
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} bookworm main" >"$apt/sources.list"
	cat >"$apt/conf" <<-CONF
		APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Sandbox::User "root"; APT::Install-Recommends "false";
		Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
		Dir::Etc::SourceList "$apt/sources.list"; Dir::Etc::SourceParts "/dev/null";
	CONF
	export APT_CONFIG=$apt/conf
	apt-get -qq update
	package=$(apt-cache depends linux-image-arm64 | awk '/Depends: linux-image/ {print $2; exit}')
	(cd "$work" && apt-get -qq download "$package" && dpkg -x "$package"_*.deb kernel)
	apt-get -qq -y install --download-only "${userland[@]}"
	unset APT_CONFIG
	for dir in bin sbin lib; do ln -s usr/$dir "$work/root/$dir"; done
	for package in "$apt"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$work/root"
	done
	rm -rf "$work/root/usr/share"/{doc,man,locale,info}
	ln -sf dash "$work/root/usr/bin/sh"
	printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n' >"$work/root/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$work/root/etc/group"
	# Of the modules only those that are used: all of them would take as much memory as everything else.
	local version
	version=$(basename "$work/kernel/lib/modules"/*)
	depmod -b "$work/kernel" "$version"
	for package in "${modules[@]}"; do
		modprobe -d "$work/kernel" -S "$version" --show-depends "$package"
	done | awk '$1 == "insmod" {print substr($2, index($2, "/lib/modules/") + 1)}' | sort -u | cpio --quiet -pdm -D "$work/kernel" "$work/root/usr/.."
	cp "$work/kernel/lib/modules/$version"/modules.{order,builtin*} "$work/root/lib/modules/$version/"
	depmod -b "$work/root" "$version"
	touch "$work/root/etc/subuid" "$work/root/etc/subgid"
	mkdir -p "$cache"
	rm -rf "$cache/root"
	mv "$work/root" "$cache/root"
	cp "$work/kernel/boot"/vmlinuz-* "$cache/vmlinuz" # last: it says that all is there
}

# fill puts into the machine what is tested, each test where it finds its files.
fill() {
	local package
	mkdir -p "$work/disk/checkout/bin" "$work/disk/mnt"
	cp -a "$cache/root/." "$work/disk/"
	cp go.mod "$work/disk/checkout/"
	export GOARCH=arm64 CGO_ENABLED=0
	go build -trimpath -tags grpcnotrace -ldflags='-s -w' -o "$work/disk/checkout/bin/berth-runtime" ./runtime
	cp -r --parents runtime test/integration/runtime "${packages[@]}" "$work/disk/checkout/" # some tests read sources
	for package in "${packages[@]}" test/integration/runtime; do
		go test -c -trimpath -ldflags='-s -w' -o "$work/disk/checkout/$package/arm64.test" "./$package"
	done
	printf '%s\n' "${packages[@]}" >"$work/disk/checkout/packages"
	printf '%s' "$pattern" >"$work/disk/checkout/pattern"
	# The RAM disk can't be left by pivot_root: a file system above it takes its place.
	cat >"$work/disk/init" <<-'INIT'
		#!/bin/busybox sh
		b=/bin/busybox
		$b mount -t tmpfs -o size=80% root /mnt
		for dir in bin sbin lib usr etc checkout; do $b cp -a /$dir /mnt/; done
		cd /mnt && $b mkdir -p proc sys dev tmp data run root var/tmp mnt && $b chmod 1777 tmp var/tmp
		exec $b switch_root /mnt /bin/bash /checkout/start
	INIT
	cat >"$work/disk/checkout/start" <<-'START'
		export PATH=/usr/sbin:/usr/bin HOME=/root VMRUN=1 BERTH_BIN=/checkout/bin
		mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
		mkdir /dev/pts /dev/shm /dev/mqueue
		mount -t devpts -o ptmxmode=666 d /dev/pts; mount -t tmpfs s /dev/shm; mount -t mqueue m /dev/mqueue
		ln -s /proc/self/fd /dev/fd
		mount -t cgroup2 c /sys/fs/cgroup
		sed 's/^/+/; s/ / +/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
		ip link set lo up
		echo "arm64: $(uname -rm)"
		status=0
		while read -r package; do
			cd "/checkout/$package" || exit
			echo "== $package"
			./arm64.test -test.timeout 10m || status=1
		done </checkout/packages
		cd /checkout/test/integration/runtime && echo "== test/integration/runtime"
		# Two change the machine, to see what is not arm64's; test-vm.sh runs them.
		./arm64.test -test.v -test.timeout 90m -test.skip '^(TestRdma|TestControllersOfV1)$' -test.run "$(cat /checkout/pattern)" || status=1
		echo "arm64: status $status"
		sync; echo o >/proc/sysrq-trigger; sleep 60
	START
	chmod +x "$work/disk/init"
	(cd "$work/disk" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/disk.gz"
}

hack/install-deps.sh qemu-system-arm cpio kmod
export PATH=$PATH:/usr/local/go/bin
[ -e "$cache/vmlinuz" ] || fetch
fill
timeout -k 10 "${BERTH_VM_LIMIT:-6000}" qemu-system-aarch64 -M virt -cpu cortex-a72 -accel tcg,thread=multi -smp 2 -m 3072 -nic none \
	-display none -serial stdio -monitor none -no-reboot -kernel "$cache/vmlinuz" -initrd "$work/disk.gz" \
	-append 'console=ttyAMA0 quiet panic=-1' </dev/null >"$work/log" &
qemu=$!
tail -f --pid=$qemu "$work/log" | sed -u 's/\r$//' | grep --line-buffered -vE '^ *(=== |--- PASS)'
qemu=''
grep -q '^arm64: status 0' "$work/log"
