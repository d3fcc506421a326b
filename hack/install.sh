#!/bin/sh
# install.sh PREFIX: installs the programs into PREFIX/bin, CNI links into PREFIX/libexec/berth/cni, and systemd's units.
set -eu
cd "$(dirname "$0")/.."
prefix=$1
install -d "$prefix/bin" "$prefix/libexec/berth/cni"
install -m 755 bin/berth bin/berthd bin/berth-runtime bin/berth-contentstore bin/berth-snapshotter bin/containerd-shim-berth-v2 bin/berth-init bin/berth-cni "$prefix/bin/"
for plugin in bridge host-local portmap firewall loopback; do
	ln -sf "$prefix/bin/berth-cni" "$prefix/libexec/berth/cni/$plugin"
done
getent group berth >/dev/null || groupadd --system berth
if [ -d /etc/systemd/system ]; then
	for unit in hack/systemd/*.service; do
		sed "s#/usr/local/bin#$prefix/bin#" "$unit" >"/etc/systemd/system/$(basename "$unit")"
	done
	echo "installed; start it with: systemctl daemon-reload && systemctl enable --now berthd"
fi
