package rootfs

import "testing"

func TestFollow(t *testing.T) {
	links := map[string]string{
		"etc/resolv.conf": "../run/systemd/resolv.conf", "var/run": "/run", "up": "../../../x", "loop": "loop/a", "a": "b/../c/", "c": "/d",
		"run/deep/link": "..", "self": ".",
	}
	for name, want := range map[string]string{
		"/": "/", "/plain/file": "/plain/file", "/etc/resolv.conf": "/run/systemd/resolv.conf", "/var/run/secrets": "/run/secrets", "/up/y": "/x/y",
		"/loop": "/loop", "/a/e": "/d/e", "/run/deep/link/file": "/run/file", "../../etc": "/etc", "/self/self/self": "/", "//a//./e/": "/d/e",
	} {
		got := follow(name, func(rel string) (string, bool) { target, ok := links[rel]; return target, ok })
		if got != want {
			t.Errorf("%q leads to %q, want %q", name, got, want)
		}
	}
}
