package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/manager/apparmor"
	"github.com/berthd/berth/manager/containers"
	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/images"
	"github.com/berthd/berth/manager/networks"
	"github.com/berthd/berth/manager/server"
	"github.com/berthd/berth/manager/shims"
	"github.com/berthd/berth/manager/stores"
	"github.com/berthd/berth/manager/volumes"
)

// daemon is what berthd is made of.
type daemon struct {
	options options
	log     *slog.Logger
	db      *bbolt.DB
	clients *stores.Clients
	events  *events.Broker
	host    server.Host

	images     *images.Service
	networks   *networks.Service
	volumes    *volumes.Service
	containers *containers.Service
}

// build makes the services, each from those before it.
func (d *daemon) build() (err error) {
	o := d.options
	id, err := daemonID(o.root)
	if err != nil {
		return err
	}
	if d.images, err = images.New(images.Config{
		DB: d.db, Content: d.clients.Content, Leases: d.clients.Leases, Snapshots: d.clients.Snapshots, Snapshotter: d.clients.Snapshotter,
		InsecureRegistries: o.insecureRegistries, Limits: o.unpack, Daemon: id, Logger: d.log,
		// The containers come last; until then nothing asks.
		InUse: func(ctx context.Context, imageID string) ([]string, bool) { return d.containers.InUse(ctx, imageID) },
	}); err != nil {
		return err
	}
	if d.networks, err = networks.New(networks.Config{
		DB: d.db, ID: id, Events: d.events, Bridge: o.bridgeName, Subnet: o.bridgeSubnet, Table: o.nftTable, StateDir: filepath.Join(o.state, "networks"),
		PluginDirs: o.pluginDirs, Logger: d.log,
	}); err != nil {
		return err
	}
	if d.volumes, err = volumes.New(volumes.Config{DB: d.db, Dir: filepath.Join(o.root, "volumes"), Events: d.events, Logger: d.log}); err != nil {
		return err
	}
	d.host = server.Host{
		ID: id, Root: o.root, State: o.state, Snapshotter: d.clients.Snapshotter, Runtime: o.runtime, Shim: o.shim,
		ContentAddress: o.contentAddress, SnapshotterAddress: o.snapshotterAddress,
	}
	launcher := shims.New(shims.Config{
		Shim: o.shim, Runtime: o.runtime, RuntimeRoot: filepath.Join(o.state, "runtime"), Namespace: "berth", Address: o.addresses[0],
	})
	profile := &apparmor.Profile{}
	if _, err := profile.Ensure(context.Background()); err != nil {
		d.log.Warn("containers can't be started unless they ask for no AppArmor profile", "error", err)
	}
	d.containers, err = containers.New(containers.Config{
		Root: o.root, State: o.state, Snapshots: d.clients.Snapshots, Snapshotter: d.clients.Snapshotter, Images: d.images,
		Networks: d.networks, Volumes: d.volumes, Shims: launcher, Events: d.events, AppArmor: profile, Init: o.init, CgroupParent: o.cgroupParent,
		Daemon: id, Logger: d.log,
	})
	return err
}

func (d *daemon) services() server.Services {
	return server.Services{
		Containers: server.NewContainers(d.containers),
		Images:     server.NewImages(d.images, d.events),
		Networks:   server.NewNetworks(d.networks),
		Volumes:    server.NewVolumes(d.volumes),
		System:     server.NewSystem(d.host, d.containers, d.images, d.volumes),
		Events:     server.NewEvents(d.events),
	}
}

// program finds a program that berthd needs: a path, or a name beside berthd or in PATH.
func program(name string) (string, error) {
	path := beside(name)
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return "", errors.New("there is no such program beside berthd or in PATH")
	}
	return path, nil
}

// beside looks for a program where berthd itself is, then in PATH.
func beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	return name
}

// daemonID is made once for a root directory.
func daemonID(root string) (string, error) {
	path := filepath.Join(root, "daemon-id")
	content, err := os.ReadFile(path)
	if err == nil && len(content) > 0 {
		return strings.TrimSpace(string(content)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("cannot read the daemon's ID: %w", err)
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:])
	return id, atomicfile.Write(path, []byte(id+"\n"), 0o644)
}
