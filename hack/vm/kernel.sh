#!/bin/bash
# kernel.sh SERIES CACHE: unpacks Debian's newest kernel of SERIES (5.10, 6.1, 6.12) below CACHE, and prints its version.
# It is never installed: this machine's own boot files and package lists stay as they are.
set -euo pipefail
series=$1 cache=$2
case $series in
5.10) archive=debian-security suite=bullseye-security ;;
6.1) archive=debian-security suite=bookworm-security ;;
6.12) archive=debian suite=bookworm-backports ;;
*) echo "vm: unknown kernel $series: it must be 5.10, 6.1 or 6.12" >&2; exit 2 ;;
esac

mkdir -p "$cache/boot"
newest() { find "$cache/boot" -name "vmlinuz-$series[.-]*" -printf '%f\n' | sort -V | tail -n 1; }
have=$(newest)
[ -z "$have" ] || { echo "${have#vmlinuz-}"; exit; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,archives,download}
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian/}
mirror=${mirror%/}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%debian}$archive $suite main" >"$work/sources.list"
# A suite that is no longer maintained has no fresh date either.
options=(-qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work"
	-o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root)
apt-get "${options[@]}" update >&2
package=$(apt-cache "${options[@]}" depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
version=${package#linux-image-}
[[ $version == "$series"[.-]* ]] || { echo "vm: $suite has the kernel $version, not $series" >&2; exit 1; }
(cd "$work/download" && apt-get "${options[@]}" download "$package" >&2 && dpkg -x "$package"_*.deb "$work/kernel")
[ -d "$work/kernel/lib/modules" ] || cp -a "$work/kernel/usr/lib" "$work/kernel/"
depmod -b "$work/kernel" "$version"
mkdir -p "$cache/lib"
cp -a "$work/kernel/lib/modules" "$cache/lib/"
cp "$work/kernel/boot/vmlinuz-$version" "$cache/boot/" # last: it says that all is there
echo "$version"
