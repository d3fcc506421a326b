#!/bin/bash
# boot.sh [-m MiB] [-t SECONDS] [-o OUTDIR] [-K KERNEL] [-s] [-k KERNEL-ARGUMENTS] -- COMMAND...
#
# Runs COMMAND as root in a virtual machine with one of Debian's stock kernels, cgroup v2, AppArmor and kernel modules,
# and exits with COMMAND's status. See README.md beside this file.
set -euo pipefail

memory=2048 limit=900 out='' arguments='' kernel=${BERTH_VM_KERNEL:-6.1} start=start cpus=2
while getopts m:t:o:K:sk: flag; do
	case $flag in
	m) memory=$OPTARG ;; t) limit=$OPTARG ;; o) out=$OPTARG ;; K) kernel=$OPTARG ;; k) arguments=$OPTARG ;;
	s) start=systemd cpus=1 ;; # with two its start may hang on a busy host
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n 2,5p "$0"; exit 2; }

here=$(dirname "$(realpath "$0")")
cache=${BERTH_VM_CACHE:-/var/cache/berth-vm}
work=$(mktemp -d)
qemu=''
# shellcheck disable=SC2317 # called by trap
finish() {
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
[ -n "$out" ] || { out=$work/out; mkdir "$out"; }

"$here/../install-deps.sh" qemu-system-x86 busybox-static cpio kmod >&2
version=$("$here/kernel.sh" "$kernel" "$cache")

make_initrd() {
	local tree=$work/initrd
	mkdir -p "$tree"/{bin,mods,proc,sys,dev,host,rw,newroot}
	cp /bin/busybox "$tree/bin/" && ln -s busybox "$tree/bin/sh"
	for module in virtio_pci 9pnet_virtio 9p overlay; do
		modprobe -d "$cache" -S "$version" --show-depends $module
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
		cp "$file" "$tree/mods/"
		file=$(basename "$file")
		[ "${file%.xz}" = "$file" ] || { xz -d "$tree/mods/$file" && file=${file%.xz}; }
		echo "$file" >>"$tree/order"
	done
	cp "$here/init" "$tree/init" && chmod +x "$tree/init"
	(cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}

make_initrd
mkdir "$work/vm"
printf '%q ' "$@" >"$work/vm/command"
realpath "$cache/lib/modules" >"$work/vm/modules"
printf '%s' "$PWD" >"$work/vm/directory"
echo $start >"$work/vm/mode"
cp "$here/start" "$here/berth-vm.target" "$here/berth-vm.service" "$work/vm/"
rm -f "$out/.status"

# The firmware clears the screen and the kernel says hello: what the command prints begins behind "vm: started".
mkfifo "$work/console"
show() {
	local line started=''
	while IFS= read -r line; do
		[ "$line" != 'vm: started' ] || started=yes
		[ -z "$started" ] || printf '%s\n' "$line"
	done
}
sed -u 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\x1bc//g; s/\r$//' <"$work/console" | tee "$work/log" | show &
filter=$!
timeout -k 10 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -smp "${BERTH_VM_CPUS:-$cpus}" -cpu max -m "$memory" -display none -serial stdio -monitor none -no-reboot \
	-kernel "$cache/boot/vmlinuz-$version" -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1 systemd.show_status=0 $arguments" \
	-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
	-virtfs local,path="$work/vm",mount_tag=vm,security_model=none,readonly=on \
	-virtfs local,path="$out",mount_tag=out,security_model=none </dev/null >"$work/console" &
qemu=$!
wait $qemu || true
qemu=''
wait $filter || true
status=$(cat "$out/.status" 2>/dev/null || echo 125)
rm -f "$out/.status"
if [ "$status" = 125 ]; then
	echo "vm: the machine stopped before the command ended (limit: $limit s)" >&2
	grep -q '^vm: started$' "$work/log" || tail -n 20 "$work/log" >&2
fi
exit "$status"
