#!/bin/bash
# boot.sh [-m MiB] [-t SECONDS] [-o OUTDIR] [-k KERNEL-ARGUMENTS] -- COMMAND...
#
# Runs COMMAND as root in a virtual machine with Debian's stock kernel, cgroup v2, AppArmor and kernel modules, and
# exits with COMMAND's status. See README.md beside this file.
set -euo pipefail

memory=2048 limit=900 out='' arguments=''
while getopts m:t:o:k: flag; do
	case $flag in
	m) memory=$OPTARG ;; t) limit=$OPTARG ;; o) out=$OPTARG ;; k) arguments=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n 2,5p "$0"; exit 2; }

cache=${BERTH_VM_CACHE:-/var/cache/berth-vm}
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$out" ] || { out=$work/out; mkdir "$out"; }

"$here/../install-deps.sh" qemu-system-x86 busybox-static cpio kmod >&2

# The kernel is unpacked below the cache and never installed: this machine's own boot files stay as they are.
package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
version=${package#linux-image-}
if [ ! -e "$cache/boot/vmlinuz-$version" ]; then
	mkdir -p "$cache" "$work/download"
	(cd "$work/download" && apt-get download -qq -o APT::Sandbox::User=root "$package" >&2 && dpkg -x "$package"_*.deb "$work/kernel")
	depmod -b "$work/kernel" "$version"
	cp -a "$work/kernel/lib" "$cache/"
	mkdir -p "$cache/boot" && cp "$work/kernel/boot/vmlinuz-$version" "$cache/boot/" # last: it says that all is there
fi

make_initrd() {
	local tree=$work/initrd
	mkdir -p "$tree"/{bin,mods,proc,sys,dev,host,rw,newroot}
	cp /bin/busybox "$tree/bin/" && ln -s busybox "$tree/bin/sh"
	for module in virtio_pci 9pnet_virtio 9p overlay; do
		modprobe -d "$cache" -S "$version" --show-depends $module
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
		cp "$file" "$tree/mods/" && basename "$file" >>"$tree/order"
	done
	cp "$here/init" "$tree/init" && chmod +x "$tree/init"
	(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}

make_initrd
mkdir "$work/vm"
printf '%q ' "$@" >"$work/vm/command"
realpath "$cache/lib/modules" >"$work/vm/modules"
printf '%s' "$PWD" >"$work/vm/directory"
cp "$here/start" "$work/vm/start"
rm -f "$out/.status"

# The firmware clears the screen and the kernel says hello: what the command prints begins behind "vm: started".
timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -smp 2 -cpu max -m "$memory" -display none -serial stdio -monitor none -no-reboot \
	-kernel "$cache/boot/vmlinuz-$version" -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1 $arguments" \
	-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
	-virtfs local,path="$work/vm",mount_tag=vm,security_model=none,readonly=on \
	-virtfs local,path="$out",mount_tag=out,security_model=none </dev/null |
	sed -u 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\x1bc//g; s/\r$//' | sed -un '/^vm: started$/,$p' || true
status=$(cat "$out/.status" 2>/dev/null || echo 125)
rm -f "$out/.status"
[ "$status" != 125 ] || echo "vm: the machine stopped before the command ended (limit: $limit s)" >&2
exit "$status"
