package testenv

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Registry starts Debian's docker-registry on a free loopback port with an empty store, and returns its host:port.
// Further parts of its configuration are lines of YAML.
func Registry(t testing.TB, further ...string) string {
	t.Helper()
	program := Peer(t, "docker-registry")
	address := FreeAddress(t)
	dir := ShortDir(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), address) + strings.Join(further, "\n")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	Until(t, time.Minute, "docker-registry answers on "+address, func() error {
		response, err := http.Get("http://" + address + "/v2/")
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	return address
}

// PrivateRegistry is Registry for the user "tester" with the password "secret" only.
func PrivateRegistry(t testing.TB) string {
	t.Helper()
	users := filepath.Join(ShortDir(t), "htpasswd")
	if err := os.WriteFile(users, []byte("tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Registry(t, fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}", users))
}

// FreeAddress returns a loopback address with a TCP port that nothing listens on at this moment.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// Until calls check until it returns nil, and fails the test with check's last error after the limit. It is for
// conditions that no event announces.
func Until(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	limit = Patience(limit)
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
