#!/bin/bash
# run-demo.sh: the main job of berth, shown with its output, on a private registry and a private daemon. Exits non-zero
# if any step is wrong, and leaves nothing behind.
set -uo pipefail
cd "$(dirname "$0")/.."

bin=${BERTH_BIN:-$PWD/bin}
slowness=${VMRUN:+10} # of an emulated machine
slowness=${slowness:-1}
work=$(mktemp -d "${TMPDIR:-/tmp}/berth-demo.XXXXXX")
instance=${work##*.}
bridge=bd$instance # an interface's name has at most 15 characters
table=berth-demo-$instance
export PATH=$bin:$PATH BERTH_HOST=unix://$work/berthd.sock NO_COLOR=1
registry_pid='' daemon_pid=''

# shellcheck disable=SC2317 # called by trap
finish() {
	local status=$?
	trap - EXIT
	[ $status = 0 ] || { echo; echo "--- the end of berthd's log:"; tail -n 20 "$work/berthd.log"; } >&2
	if [ -n "$daemon_pid" ] && kill -0 "$daemon_pid" 2>/dev/null; then
		mapfile -t left < <(berth ps -aq 2>/dev/null)
		[ ${#left[@]} = 0 ] || berth rm -f "${left[@]}" >/dev/null
		kill "$daemon_pid" && wait "$daemon_pid" 2>/dev/null
	fi
	[ -z "$registry_pid" ] || { kill "$registry_pid" && wait "$registry_pid" 2>/dev/null; }
	leftovers || status=1
	rm -rf "$work" || status=1
	[ $status != 0 ] || echo "demo: all steps passed in $SECONDS s, and nothing is left behind"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# leftovers names whatever of this demo is still on the machine.
# shellcheck disable=SC2317
leftovers() {
	local found
	found=$(
		grep -F "$work" /proc/self/mountinfo | awk '{print "mount " $5}'
		for process in /proc/[0-9]*; do
			{ [ "$process" != /proc/$$ ] && tr '\0' ' ' <"$process/cmdline" | grep -F "$work" | sed "s#^#process ${process#/proc/} #"; } 2>/dev/null
		done
		ip -o link show 2>/dev/null | grep -F "$bridge" | sed 's/^/interface /'
		nft list tables 2>/dev/null | grep -F "$table"
		[ ! -e "$work/ids" ] || while read -r id; do
			find /sys/fs/cgroup -type d -name "*$id*" 2>/dev/null | sed 's/^/cgroup /'
			ip -o link show | grep -F "${id:0:8}"
			ls /run/netns 2>/dev/null | grep -F "$id"
		done <"$work/ids"
	)
	[ -z "$found" ] || { echo "demo: left behind:" >&2; echo "$found" >&2; return 1; }
}

fail() { echo "demo: $*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }
# run shows a command and its output, and keeps the output in $output. A failing command fails the demo.
run() {
	printf '$ %s\n' "$*"
	output=$(timeout $((60 * slowness)) "$@" 2>&1)
	local status=$?
	[ -z "$output" ] || printf '%s\n' "$output"
	[ $status = 0 ] || fail "exit status $status of: $*"
}
expect() { [[ $output == *"$1"* ]] || fail "expected \"$1\" in the output above"; }
free_port() {
	local port
	for ((;;)); do
		port=$((20000 + RANDOM % 10000))
		[ -n "$(ss -Hltn "sport = :$port")" ] || { echo $port; return; }
	done
}
# until_true waits for a condition that no event announces to a shell.
until_true() {
	for ((i = 0; i < 200 * slowness; i++)); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.05
	done
	fail "not within $((10 * slowness)) s: $*"
}
start_daemon() {
	berthd --root "$work/root" --state "$work/state" --address "$BERTH_HOST" --bridge-name "$bridge" \
		--bridge-subnet "10.$((100 + RANDOM % 100)).$((RANDOM % 250)).0/24" --nft-table "$table" >>"$work/berthd.log" 2>&1 &
	daemon_pid=$!
	until_true berth version
}
remember() { berth ps -aq --no-trunc >>"$work/ids"; }

port=$(free_port)
registry=127.0.0.1:$(free_port)

step "two images from Debian's busybox, one of four layers with whiteouts, in a registry"
hack/make-images.sh "$work/layout" >"$work/images.log" 2>&1 || { cat "$work/images.log"; fail "cannot make the images"; }
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\n' "$work/registry" "$registry" >"$work/registry.yml"
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_pid=$!
until_true curl -fs "http://$registry/v2/"
for image in busybox web; do
	run skopeo copy -q --dest-tls-verify=false "oci:$work/layout:$image" "docker://$registry/demo/$image:latest"
done
start_daemon

step "pull and run"
run berth pull "$registry/demo/busybox"
run berth run --rm "$registry/demo/busybox" echo hello
[ "$output" = hello ] || fail "expected hello and nothing else"

step "a web server behind a published port"
run berth run -d --name web -p "127.0.0.1:$port:80" "$registry/demo/web" httpd -f -v -h /var/www
remember
until_true curl -fs "http://127.0.0.1:$port/"
run curl -fsS "http://127.0.0.1:$port/"
expect "hello from berth"
run berth ps
expect web
run berth exec web ls -R /var/www
expect new.html
[[ $output != *draft.html* && $output != *old.html* ]] || fail "a file that a layer removed is there"
run script -qec "stty rows 30 cols 100; berth exec -it web sh -c 'tty; stty size; echo in a terminal'" /dev/null
expect "30 100"
expect /dev/pts/
run berth logs web
expect "response:200"

step "what a container writes stays in its own layer"
run berth run --name one "$registry/demo/busybox" sh -c 'echo one >/etc/mark; rm /etc/group; cat /etc/mark'
run berth run --name two "$registry/demo/busybox" sh -c 'ls /etc; cat /etc/mark 2>&1 || echo no mark here'
remember
expect "no mark here"
expect group
run berth run --rm "$registry/demo/busybox" ls /etc
expect group
[[ $output != *mark* ]] || fail "the image changed"
run berth rm one two

step "berthd is killed and comes back; the web server never notices"
printf '$ kill -9 %s\n' "$daemon_pid"
kill -9 "$daemon_pid"
wait "$daemon_pid" 2>/dev/null
run curl -fsS "http://127.0.0.1:$port/"
start_daemon
run curl -fsS "http://127.0.0.1:$port/"
run berth ps
expect web
expect Up
run berth exec web echo still here

step "stop and remove"
run berth stop -t 2 web
run berth inspect --format '{{.Name}} {{.State.Status}} with exit code {{.State.ExitCode}}' web
expect exited
run berth rm web
run berth images
run berth rmi "$registry/demo/busybox" "$registry/demo/web"
run berth images -q
[ -z "$output" ] || fail "an image is left"
echo
