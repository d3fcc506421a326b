package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/berthd/berth/snapshotter"
)

// check refuses values that can't work, each by its flag, before anything is made. given holds the names of the flags that
// the command line has: a default may name something that this host lacks, as the group berth.
func (o *options) check(given map[string]bool) error {
	if err := o.checkDirectories(); err != nil {
		return err
	}
	if err := o.checkSnapshotter(); err != nil {
		return err
	}
	if err := o.checkLimits(); err != nil {
		return err
	}
	if err := checkGroup(o.group, given["group"]); err != nil {
		return err
	}
	if err := checkCgroupParent(o.cgroupParent); err != nil {
		return err
	}
	if err := checkRegistries(o.insecureRegistries); err != nil {
		return err
	}
	return o.checkPrograms(given)
}

func (o *options) checkDirectories() error {
	for _, dir := range []struct{ flag, path string }{{"root", o.root}, {"state", o.state}} {
		if !filepath.IsAbs(dir.path) {
			return fmt.Errorf("invalid --%s %q: want an absolute path", dir.flag, dir.path)
		}
	}
	o.root, o.state = filepath.Clean(o.root), filepath.Clean(o.state)
	if o.root == o.state {
		return fmt.Errorf("invalid --state %q: it is --root too, but a reboot has to empty it", o.state)
	}
	for _, dir := range o.pluginDirs {
		info, err := os.Stat(dir)
		switch {
		case !filepath.IsAbs(dir):
			return fmt.Errorf("invalid --cni-plugin-dir %q: want an absolute path", dir)
		case err != nil:
			return fmt.Errorf("invalid --cni-plugin-dir %q: %w", dir, err)
		case !info.IsDir():
			return fmt.Errorf("invalid --cni-plugin-dir %q: it is not a directory", dir)
		}
	}
	return nil
}

// checkSnapshotter knows the names of berthd's own layouts only: a snapshotter in another process has its own.
func (o *options) checkSnapshotter() error {
	switch {
	case o.snapshotterAddress != "", o.snapshotter == "", o.snapshotter == snapshotter.Overlay, o.snapshotter == snapshotter.Native:
		return nil
	}
	return fmt.Errorf("invalid --snapshotter %q: want %s or %s, or the name of a snapshotter behind --snapshotter-address",
		o.snapshotter, snapshotter.Overlay, snapshotter.Native)
}

func checkGroup(name string, given bool) error {
	if _, err := user.LookupGroup(name); err != nil && given {
		return fmt.Errorf("invalid --group %q: %w", name, err)
	}
	return nil
}

// checkCgroupParent refuses paths that lead out of the hierarchy, or to a cgroup of another name than the one given.
func checkCgroupParent(parent string) error {
	invalid := func(why string) error { return fmt.Errorf("invalid --cgroup-parent %q: %s", parent, why) }
	switch {
	case strings.Trim(parent, "/") == "":
		return invalid("want the path of a cgroup below the hierarchy's root")
	case strings.ContainsAny(parent, "\n\x00:"):
		return invalid("a cgroup's path has no newline, colon or zero byte")
	}
	for element := range strings.SplitSeq(strings.Trim(parent, "/"), "/") {
		switch {
		case element == "", element == ".", element == "..":
			return invalid(fmt.Sprintf("it may not contain the element %q", element))
		case len(element) > 255:
			return invalid("an element is longer than 255 bytes")
		}
	}
	return nil
}

var domainName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// checkRegistries wants hosts, or hosts with ports, as references of images begin with.
func checkRegistries(registries []string) error {
	for _, registry := range registries {
		host, port := registry, "0"
		if h, p, err := net.SplitHostPort(registry); err == nil {
			host, port = h, p
		}
		_, addressErr := netip.ParseAddr(strings.Trim(host, "[]"))
		if _, portErr := net.LookupPort("tcp", port); portErr != nil || addressErr != nil && !domainName.MatchString(host) {
			return fmt.Errorf("invalid --insecure-registry %q: want a host or host:port", registry)
		}
	}
	return nil
}

// checkPrograms finds the runtime and the shim, and the init if it was asked for: without it only containers that want an
// init don't start.
func (o *options) checkPrograms(given map[string]bool) error {
	for _, p := range []struct {
		flag string
		name *string
	}{{"runtime", &o.runtime}, {"shim", &o.shim}, {"init", &o.init}} {
		path, err := program(*p.name)
		if err != nil {
			if p.flag == "init" && !given["init"] {
				continue
			}
			return fmt.Errorf("invalid --%s %q: %w", p.flag, *p.name, err)
		}
		*p.name = path
	}
	return nil
}
