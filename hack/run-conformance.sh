#!/bin/bash
# Runs opencontainers/runtime-tools' validation programs on our runtime and on Debian's runc, and compares.
#
#   hack/run-conformance.sh [PROGRAM…]      all, or those whose path has one of the words in it
#
# The programs, their root file system and the one that looks around inside the container come from the Go module.
# Results are kept below .cache/conformance/results. The exit status is 1 if runc passes more than we do.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.9.1-0.20251205004911-5e639034dcdc
repo=$PWD
work=$repo/.cache/conformance
source=$work/src-$version
results=$work/results
export CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off

prepare() {
	[ -e "$source/ready" ] && return
	echo "building the validation programs of runtime-tools $version …" >&2
	mkdir -p "$work"
	rm -rf "$source"
	local module
	module=$(cd "$work" && go mod download -json "github.com/opencontainers/runtime-tools@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	cp -r --no-preserve=mode "$module" "$source"
	cd "$source"
	go build -o runtimetest ./cmd/runtimetest
	local program
	for program in validation/*/*.go; do
		case $program in */util/*) continue ;; esac
		go build -o "${program%.go}.t" "$program"
	done
	touch ready
	cd "$repo"
}

# run RUNTIME NAME: writes a file of TAP lines for each program
run() {
	local runtime=$1 out=$results/$2
	shift 2
	rm -rf "$out"
	mkdir -p "$out"
	cd "$source"
	local program
	for program in validation/*/*.t; do
		[ $# -eq 0 ] || grep -qF -f <(printf '%s\n' "$@") <<<"$program" || continue
		RUNTIME=$runtime timeout -k 5 60 "./$program" >"$out/$(basename "$program" .t)" 2>"$out/$(basename "$program" .t).err" || true
	done
	cd "$repo"
}

failures() { grep -E '^ *not ok ' "$1" | sed -E 's/^ *not ok [0-9]+/not ok/' | sort || true; }

count() { cat "$results/$1"/* | grep -c "^ *$2" || true; }

prepare
run "$repo/bin/berth-runtime" berth "$@"
run "$(command -v runc)" runc "$@"
for name in runc berth; do
	printf '%-6s %5d ok %4d not ok\n' "$name" "$(count $name 'ok ')" "$(count $name 'not ok ')"
done
echo
echo "Where they differ:"
for file in "$results"/berth/*; do
	case $file in *.err) continue ;; esac
	# A failure of the one that the other has not. Numbers are left out: some programs go through maps in any order.
	comm -3 <(failures "$results/runc/${file##*/}") <(failures "$file") | sed -E "s|^\t|berth	${file##*/}: |; t; s|^|runc	${file##*/}: |"
done
[ "$(count berth 'ok ')" -ge "$(count runc 'ok ')" ]
