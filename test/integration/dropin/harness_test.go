// Package dropin_test puts berth-runtime in runc's place under Debian's containerd, Docker and podman, each started
// privately, and lives through the life of containers with their own clients.
package dropin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthd/berth/test/testenv"
)

// patience bounds every command: whatever takes longer hangs.
const patience = 60 * time.Second

// image is what every engine calls the test's image: busybox.
const image = "localhost/berth-test/busybox:latest"

// engine is a container engine with a client like docker's.
type engine struct {
	t      *testing.T
	client []string // program and global flags
	run    []string // flags that run needs on every host of ours
	stdin  string

	remapped   bool   // containers have users of their own
	containerd string // dockerd's, its address
}

func (e *engine) isPodman() bool {
	return slices.ContainsFunc(e.client, func(word string) bool { return filepath.Base(word) == "podman" })
}

// outcome is what a command came to.
type outcome struct {
	stdout, stderr string
	status         int
}

func (e *engine) try(args ...string) outcome {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience(patience))
	defer cancel()
	words := append(append([]string{}, e.client[1:]...), args...)
	if args[0] == "run" || args[0] == "create" {
		words = append(append(append([]string{}, e.client[1:]...), args[0]), e.run...)
		words = append(words, args[1:]...)
	}
	command := exec.CommandContext(ctx, e.client[0], words...)
	command.WaitDelay = testenv.Patience(5 * time.Second)
	if e.stdin != "" {
		command.Stdin = strings.NewReader(e.stdin)
	}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		e.t.Fatalf("%v: %v %v\n%s%s", command.Args, err, ctx.Err(), stdout.String(), stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// must is try for what has to succeed. It returns the output without the space around it.
func (e *engine) must(args ...string) string {
	e.t.Helper()
	o := e.try(args...)
	if o.status != 0 {
		e.t.Fatalf("%v: status %d\n%s%s", args, o.status, o.stdout, o.stderr)
	}
	return strings.TrimSpace(o.stdout)
}

// background starts a daemon that ends with the test, and waits until ready succeeds.
func background(t *testing.T, dir string, ready []string, args ...string) {
	t.Helper()
	log, err := os.CreateTemp(dir, filepath.Base(args[0])+".*.log")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(args[0], args[1:]...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(testenv.Patience(30 * time.Second)):
			t.Errorf("%s does not end", args[0])
			_ = command.Process.Kill()
			<-ended
		}
		_ = log.Close()
		if content, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			const enough = 4 << 10
			t.Logf("%s has said: %s", args[0], content[max(0, len(content)-enough):])
		}
	})
	for deadline := time.Now().Add(testenv.Patience(patience)); exec.Command(ready[0], ready[1:]...).Run() != nil; time.Sleep(50 * time.Millisecond) {
		select {
		case <-ended:
			content, _ := os.ReadFile(log.Name())
			t.Fatalf("%s has ended:\n%s", args[0], content)
		default:
		}
		if time.Now().After(deadline) {
			content, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not answer:\n%s", args[0], content)
		}
	}
}

// startContainerd starts Debian's containerd with its directories and sockets below dir, and returns its address.
func startContainerd(t *testing.T, dir string, wrapper ...string) string {
	t.Helper()
	testenv.NeedRoot(t)
	address := filepath.Join(dir, "c.sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(dir, "c-root"), filepath.Join(dir, "c-state"), address, address+".ttrpc")
	file := filepath.Join(dir, "containerd.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, dir, []string{testenv.Peer(t, "ctr"), "--address", address, "version"},
		append(slices.Clone(wrapper), testenv.Peer(t, "containerd"), "--config", file, "--log-level", "warn")...)
	return address
}

// archive writes a root file system as a tar file, which engines import.
func archive(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "rootfs.tar")
	if out, err := exec.Command("tar", "-C", testenv.BusyboxRootfs(t), "-cf", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return path
}

// cgroupParent returns the parent of an engine's cgroups, and removes it after the test: containers that are gone leave
// it, as with runc.
func cgroupParent(t *testing.T, name string) string {
	t.Helper()
	parent := "/berth-test-" + name
	t.Cleanup(func() {
		if err := testenv.RemoveCgroups(parent); err != nil {
			t.Error(err)
		}
	})
	return parent
}

// waitFor waits until something that has no event of its own has become so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testenv.Patience(patience)); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
