// Package cni_test runs berth's CNI plugins as a container engine would: executed, through libcni, in a network namespace that
// plays the host. Nothing on the real host changes, and nothing is left of a namespace when the test lets go of it.
package cni_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/test/testenv"
)

// namespace is a network namespace that lives as long as its descriptor.
type namespace struct {
	t    testing.TB
	fd   int
	path string
}

func TestMain(m *testing.M) { testenv.Main(m) } // tests change the namespace of their thread

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	testenv.NeedRoot(t)
	fd, err := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends here
		if e := unix.Unshare(unix.CLONE_NEWNET); e != nil {
			err <- e
			return
		}
		opened, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err <- e
			return
		}
		fd <- opened
	}()
	select {
	case opened := <-fd:
		n := &namespace{t: t, fd: opened, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), opened)}
		t.Cleanup(func() { _ = unix.Close(opened) })
		n.run("ip", "link", "set", "lo", "up")
		return n
	case e := <-err:
		t.Fatal("cannot make a network namespace: ", e)
	}
	return nil
}

// do runs f on a thread in the namespace. What f executes and which sockets it opens stay there.
func (n *namespace) do(f func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(n.fd, unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Error("cannot enter the network namespace: ", err)
	}
}

// try runs a command in the namespace and returns what it prints.
func (n *namespace) try(name string, args ...string) (string, error) {
	var output []byte
	var err error
	n.do(func() { output, err = exec.Command(name, args...).CombinedOutput() })
	return string(output), err
}

func (n *namespace) run(name string, args ...string) string {
	n.t.Helper()
	output, err := n.try(name, args...)
	if err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, output)
	}
	return output
}

func (n *namespace) sysctl(key, value string) {
	n.t.Helper()
	var err error
	n.do(func() { err = os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0o644) })
	if err != nil {
		n.t.Fatalf("cannot set %s: %v", key, err)
	}
}

// links lists the interfaces, without lo.
func (n *namespace) links() []string {
	n.t.Helper()
	var names []string
	for line := range strings.Lines(n.run("ip", "-o", "link")) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		if name, _, _ = strings.Cut(name, "@"); name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

// entries lists the elements of a table's sets and maps that have an owner.
func (n *namespace) entries(table string) []string {
	n.t.Helper()
	output, err := n.try("nft", "list", "table", "inet", table)
	if err != nil {
		return nil // no such table
	}
	var found []string
	for line := range strings.Lines(output) {
		if strings.Contains(line, "comment") && !strings.Contains(line, "made by berth") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}
