#!/bin/bash
# test-vm.sh [PART...]: the tests that a host with cgroup v1, or without AppArmor, modules and systemd can't show, each part
# in a virtual machine of its own: emulation is slow, and a part that hangs doesn't take the others with it. Without
# arguments all parts are run but bench, which wants a quiet host. BERTH_VM_TESTS narrows the tests (a pattern for go test
# -run), BERTH_VM_KERNEL chooses the kernel (hack/vm/README.md). The full output of a part is in .cache/vm/PART.log.
set -uo pipefail
cd "$(dirname "$0")/.."
repo=$PWD
logs=$repo/.cache/vm
pattern=${BERTH_VM_TESTS:-.}

# Each part: its limit in seconds, and what it is.
declare -A limits=(
	[runtime-1]=1200 [runtime-2]=1200 [attack]=1200 [checkpoint]=1500 [systemd]=900 [systemd-v1]=900 [systemd-hybrid]=900
	[shim]=1500 [daemon]=1500 [demo]=600
	[docker]=2700 [podman]=2700 [failure]=1800 [networks]=1800 [bench]=1200
)
declare -A titles=(
	[runtime-1]="the runtime on cgroup v2, first half" [runtime-2]="the runtime on cgroup v2, second half"
	[attack]="attacks on the runtime on cgroup v2, with AppArmor" [checkpoint]="checkpoint and restore"
	[systemd]="cgroups by systemd on cgroup v2, for root and for users"
	[systemd-v1]="the same on cgroup v1"
	[systemd-hybrid]="the same with cgroup v1 for controllers, v2 for systemd"
	[shim]="the shim on cgroup v2" [daemon]="berthd on cgroup v2" [demo]="the demo on cgroup v2"
	[docker]="containerd and dockerd with our runtime on cgroup v2" [podman]="podman with our runtime on cgroup v2"
	[failure]="berthd and its helpers killed, on cgroup v2" [networks]="networks and volumes of berthd on cgroup v2"
	[bench]="the runtime beside crun and runc on cgroup v2"
)
order=(runtime-1 runtime-2 attack checkpoint systemd systemd-v1 systemd-hybrid shim daemon demo docker podman failure networks)

[ $# -gt 0 ] || set -- "${order[@]}"
for part in "$@"; do
	[ -n "${limits[$part]:-}" ] || { echo "test-vm: unknown part $part: it must be of ${order[*]}" >&2; exit 2; }
done

hack/install-deps.sh apparmor docker.io podman conmon iptables criu || exit 1
mkdir -p "$logs"
work=$(mktemp -d /var/tmp/berth-vm.XXXXXX)
machine='' # the process of boot.sh that is under way
# shellcheck disable=SC2317 # called by trap
finish() { [ -z "$machine" ] || kill "$machine" 2>/dev/null; rm -rf "$work"; }
trap finish EXIT
trap 'exit 130' INT TERM

# The machine sees copies: what is built meanwhile must not change under running programs.
cp -r "${BERTH_BIN:-$repo/bin}" "$work/bin"
compile() { [ -e "$work/$1.test" ] || go test -c -o "$work/$1.test" "./test/integration/$1"; }

# tests PACKAGE PATTERN writes the commands that run a package's tests, from a copy in memory.
tests() {
	cat <<RUN
cp $work/$1.test /data/
cd $repo/test/integration/$1
/data/$1.test -test.v -test.timeout 60m -test.run '$2'
RUN
}

# among PACKAGE prints the names of the tests that are asked for.
among() { "$work/$1.test" -test.list "$pattern" | grep ^Test; }

# these prints the pattern of the tests whose names it reads.
these() { paste -sd '|' | sed 's/.*/^(&)$/'; }

# commands PART writes what the machine executes.
commands() {
	cat <<RUN
set -e
mkdir /data/bin && cp $work/bin/* /data/bin/
export BERTH_BIN=/data/bin TMPDIR=/data PATH=/data/bin:\$PATH
modprobe -a bridge veth nf_tables nft_chain_nat nft_masq nft_fib_inet overlay br_netfilter loop ext4 2>/dev/null || true
RUN
	case $1 in
	runtime-*) tests runtime "$(among runtime | grep -v ^TestSystemd | awk -v n="${1#runtime-}" 'NR % 2 == n % 2' | these)" ;;
	docker) tests dropin "$(among dropin | grep -v Podman | these)" ;;
	podman) tests dropin "$(among dropin | grep Podman | these)" ;;
	systemd*)
		# A user who may log in, and one with ranges of further users.
		cat <<RUN
useradd --create-home --uid 1500 bertha && useradd --create-home --uid 1501 bertrand
grep -v '^bertrand' /etc/subuid >/data/subuid; cp /data/subuid /etc/subuid; cp /data/subuid /etc/subgid
systemctl start user@1500.service user@1501.service
RUN
		tests runtime '^TestSystemd'
		[ "$1" != systemd ] || { tests dropin UnderSystemd; tests checkpoint '^TestSystemd'; }
		;;
	demo) echo "cd $repo && hack/run-demo.sh" ;;
	bench) echo "ip link set lo up; mount -t tmpfs none /tmp; $work/bench -bin /data/bin -only runtime,crowd -runs 20" ;;
	*) tests "$1" "$pattern" ;;
	esac
}

# run PART boots a machine for it.
run() {
	local options=()
	case $1 in
	systemd) options=(-s) ;;
	systemd-hybrid) options=(-s -k systemd.unified_cgroup_hierarchy=0) ;;
	systemd-v1) options=(-s -k 'systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1') ;;
	esac
	commands "$1" >"$work/run"
	hack/vm/boot.sh -m 3072 -t "${limits[$1]}" "${options[@]}" -- bash "$work/run" >"$logs/$1.log" 2>&1 &
	machine=$!
	wait $machine
	local status=$?
	machine=''
	return $status
}

# report PART STATUS SECONDS prints what of the log is of interest, and keeps a line for the summary.
failed=() summary=()
report() {
	local log=$logs/$1.log line
	if [ "$1" = demo ]; then
		grep -E '^(==|demo:)' "$log"
	elif [ "$1" = bench ]; then
		grep -E '^(\||#|bench:)' "$log"
	else
		grep -E '^ *--- FAIL|^panic|_test.go:[0-9]+: ' -A 2 "$log" | grep -E -v '^ *(=== |--- (PASS|SKIP))|^--$|instructions, runc has|for comparison' | cut -c 1-300
	fi
	line=$(printf '%-14s %-6s %5d s  %3d passed %3d failed %3d skipped' "$1" "$([ "$2" = 0 ] && echo ok || echo FAILED)" "$3" \
		"$(grep -c '^--- PASS' "$log")" "$(grep -c '^--- FAIL' "$log")" "$(grep -c '^--- SKIP' "$log")")
	echo "   $line"
	summary+=("$line")
	[ "$2" = 0 ] || failed+=("$1")
	[ "$2" != 125 ] || tail -n 5 "$log"
}

main() {
	local part start
	for part in "$@"; do
		case $part in
		demo) ;;
		bench) go build -o "$work/bench" ./test/bench || exit 1 ;;
		systemd) compile runtime && compile dropin && compile checkpoint || exit 1 ;;
		runtime-* | systemd-*) compile runtime || exit 1 ;;
		docker | podman) compile dropin || exit 1 ;;
		*) compile "$part" || exit 1 ;;
		esac
		echo "== $part: ${titles[$part]}"
		start=$SECONDS
		run "$part"
		report "$part" $? $((SECONDS - start))
	done
	echo "== kernel ${BERTH_VM_KERNEL:-6.1}"
	printf '%s\n' "${summary[@]}"
	[ ${#failed[@]} = 0 ] || { echo "test-vm: failed: ${failed[*]}; see .cache/vm/" >&2; exit 1; }
	exit
}
main "$@"
