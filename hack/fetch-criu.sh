#!/bin/bash
# Unpacks a newer criu into .cache/criu, where the tests look for it, if the installed one can't work with this machine's
# kernel: Debian 12's stumbles over kernels whose vDSO it doesn't know. Nothing of it is installed. Without a network the
# tests that need it skip.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/.cache/criu
[ "$(uname -m)" = x86_64 ] && [ "$(id -u)" = 0 ] || exit 0
! criu check >/dev/null 2>&1 && ! "$dir/criu" check >/dev/null 2>&1 || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,archives/partial,root/usr}
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian testing main' >"$work/sources.list"
: >"$work/status" # nothing is installed as far as this apt knows, so that criu comes with its C library
private=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::Preferences=- -o Dir::Etc::PreferencesParts=-
	-o "Dir::State::Lists=$work/lists" -o "Dir::State::Status=$work/status" -o "Dir::Cache=$work" -o APT::Sandbox::User=root)
if ! { apt-get "${private[@]}" update && apt-get "${private[@]}" install -y --no-install-recommends --download-only criu; } >"$work/log" 2>&1; then
	echo "fetch-criu: no newer criu is to be had, tests of checkpoints skip: $(tail -1 "$work/log")" >&2
	exit 0
fi
# Debian has /bin and /lib in /usr; packages that say otherwise are unpacked there too.
for name in bin lib lib64 sbin; do mkdir "$work/root/usr/$name" && ln -s "usr/$name" "$work/root/$name"; done
for package in "$work"/archives/*.deb; do
	case ${package##*/} in criu_* | lib*) dpkg --fsys-tarfile "$package" | tar -C "$work/root" --keep-directory-symlink -x ;; esac
done
cat >"$work/criu" <<'RUN'
#!/bin/sh
libraries=${0%/*}/root/usr/lib/x86_64-linux-gnu
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "${0%/*}/root/usr/sbin/criu" "$@"
RUN
chmod +x "$work/criu"
rm -rf "$dir" && mkdir -p "$dir" && mv "$work/root" "$work/criu" "$dir/"
"$dir/criu" check >/dev/null 2>&1 || echo "fetch-criu: neither criu works with this kernel, tests of checkpoints skip" >&2
