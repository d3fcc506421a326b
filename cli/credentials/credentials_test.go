package credentials

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

func TestDomain(t *testing.T) {
	for reference, want := range map[string]string{
		"busybox": "docker.io", "busybox:1.36": "docker.io", "user/app": "docker.io", "docker.io/library/busybox": "docker.io",
		"localhost/app": "localhost", "localhost:5000/app": "localhost:5000", "registry.example/app:v1": "registry.example",
		"127.0.0.1:5000/a/b@sha256:0": "127.0.0.1:5000", "UPPER/app": "UPPER", "app.v1": "docker.io",
	} {
		if got := Domain(reference); got != want {
			t.Errorf("%s is of %s, want %s", reference, got, want)
		}
	}
}

func TestHost(t *testing.T) {
	for registry, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "ghcr.io": "ghcr.io",
		"https://registry.example:5000/v2/": "registry.example:5000", "registry.example/team": "registry.example",
	} {
		if got := Host(registry); got != want {
			t.Errorf("%q is %q, want %q", registry, got, want)
		}
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "config.json")
}

func TestFor(t *testing.T) {
	for name, c := range map[string]struct {
		config, registry string
		user, password   string
		identity, wrong  string
	}{
		"none":           {config: `{}`, registry: "example"},
		"empty":          {config: ``, registry: "example"},
		"null":           {config: `{"auths":null}`, registry: "example"},
		"auth":           {config: `{"auths":{"example":{"auth":"dXNlcjpwOnc="}}}`, registry: "example", user: "user", password: "p:w"},
		"as a URL":       {config: `{"auths":{"https://example/v1/":{"auth":"dXNlcjpwOnc="}}}`, registry: "example", user: "user", password: "p:w"},
		"plain":          {config: `{"auths":{"example":{"username":"user","password":"pw"}}}`, registry: "example", user: "user", password: "pw"},
		"another":        {config: `{"auths":{"example:5000":{"auth":"dXNlcjpwOnc="}}}`, registry: "example"},
		"hub":            {config: `{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwdw=="}}}`, registry: "docker.io", user: "user", password: "pw"},
		"token":          {config: `{"auths":{"example":{"auth":"dXNlcjo=","identitytoken":"t"}}}`, registry: "example", user: "user", identity: "t"},
		"empty entry":    {config: `{"auths":{"example":{}}}`, registry: "example"},
		"not base64":     {config: `{"auths":{"example":{"auth":"?"}}}`, registry: "example", wrong: "base64"},
		"no colon":       {config: `{"auths":{"example":{"auth":"dXNlcg=="}}}`, registry: "example", wrong: "username:password"},
		"another type":   {config: `{"auths":[]}`, registry: "example", wrong: `"auths"`},
		"path of helper": {config: `{"credHelpers":{"example":"../../evil"}}`, registry: "example", wrong: "without a path"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, c.config)
			got, err := For(t.Context(), c.registry)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("got %v, want something about %q", err, c.wrong)
				}
				return
			}
			if err != nil || got.GetUsername() != c.user || got.GetPassword() != c.password || got.GetIdentityToken() != c.identity {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestPutFollowsALinkAndKeepsTheRest(t *testing.T) {
	path := write(t, `{"auths":{"https://example/":{"auth":"YTpi"},"other":{"auth":"YTpi"}},"proxies":{"x":1}}`)
	link := t.TempDir()
	if err := os.Symlink(path, filepath.Join(link, "config.json")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", link)
	config, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Put(t.Context(), "example", &berthv1.RegistryAuth{Username: "user", Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{`"dXNlcjpwdw=="`: 1, `"https://example/"`: 0, `"proxies"`: 1, `"other"`: 1} {
		if got := strings.Count(string(content), text); got != want {
			t.Errorf("%s is there %d times in %s", text, got, content)
		}
	}
	if st, err := os.Lstat(filepath.Join(link, "config.json")); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link has become %v, %v", st.Mode(), err)
	}
}

func TestPutKeepsTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a file of another user's")
	}
	path := write(t, `{}`)
	if err := os.Chown(path, 1234, 2345); err != nil {
		t.Fatal(err)
	}
	config, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Put(t.Context(), "example", &berthv1.RegistryAuth{Username: "user", Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 2345 || info.Mode() != 0o600 {
		t.Errorf("owner %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
}

// A helper that hangs ends with the context.
func TestHelperThatHangs(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-hang"), []byte("#!/bin/sh\necho >&2 started\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	write(t, `{"credsStore":"hang"}`)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := For(ctx, "example"); err == nil || !strings.Contains(err.Error(), "docker-credential-hang") {
		t.Errorf("got %v", err)
	}
}
