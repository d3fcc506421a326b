#!/bin/sh
# install.sh install|uninstall PREFIX [DESTDIR]: installs berth below DESTDIR/PREFIX and nowhere else, or removes what install
# put there: programs in bin, links for CNI callers in libexec/berth/cni, systemd's units in lib/systemd/system and the
# group of the socket in lib/sysusers.d. systemd reads the last two below /usr and /usr/local.
set -eu
cd "$(dirname "$0")/.."
verb=$1 prefix=$2 destdir=${3:-}
case $prefix in
*[[:space:]\&\#\\%]*) echo "install: PREFIX \"$prefix\" must be free of blanks and of & # \\ %, which mean something in units" >&2; exit 2 ;;
/*) ;;
*) echo "install: PREFIX \"$prefix\" must be an absolute path" >&2; exit 2 ;;
esac
prefix=${prefix%/}
top=$destdir$prefix
programs='berth berthd berth-runtime berth-contentstore berth-snapshotter containerd-shim-berth-v2 berth-init berth-cni'
plugins='bridge host-local portmap firewall loopback'

install_all() {
	install -d "$top/bin" "$top/libexec/berth/cni" "$top/lib/systemd/system" "$top/lib/sysusers.d"
	for program in $programs; do
		install -m 755 "bin/$program" "$top/bin/"
	done
	for plugin in $plugins; do
		ln -sf ../../../bin/berth-cni "$top/libexec/berth/cni/$plugin"
	done
	for unit in hack/systemd/*.service; do
		sed "s#/usr/local/bin#$prefix/bin#" "$unit" | install -m 644 /dev/stdin "$top/lib/systemd/system/${unit##*/}"
	done
	install -m 644 hack/systemd/berth.sysusers "$top/lib/sysusers.d/berth.conf"
	echo "installed below $top"
	[ -z "$destdir" ] || return 0
	case $prefix in
	/usr | /usr/local) echo "start it with: systemd-sysusers; systemctl daemon-reload && systemctl enable --now berthd" ;;
	*) echo "start it with: $prefix/bin/berthd; systemd knows the units after: systemctl link $prefix/lib/systemd/system/berthd.service" ;;
	esac
}

uninstall_all() {
	for program in $programs; do
		rm -f "$top/bin/$program"
	done
	for plugin in $plugins; do
		rm -f "$top/libexec/berth/cni/$plugin"
	done
	for unit in hack/systemd/*.service; do
		rm -f "$top/lib/systemd/system/${unit##*/}"
	done
	rm -f "$top/lib/sysusers.d/berth.conf"
	# Directories that hold something else stay.
	for dir in libexec/berth/cni libexec/berth lib/systemd/system lib/systemd lib/sysusers.d; do
		rmdir "$top/$dir" 2>/dev/null || true
	done
	echo "removed from $top; images, containers and volumes stay in berthd's --root (/var/lib/berth)"
}

case $verb in
install) install_all ;;
uninstall) uninstall_all ;;
*) echo "install: unknown verb $verb: it must be install or uninstall" >&2; exit 2 ;;
esac
