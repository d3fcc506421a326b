// Command berthd manages containers: images from registries, containers on shims, networks and volumes, for clients
// that speak berth.v1 on its socket. A berthd that ends, or is killed, leaves its containers running; the next one
// goes on where it was.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/berthd/berth/internal/grpcserve"
	"github.com/berthd/berth/manager/events"
	"github.com/berthd/berth/manager/store"
	"github.com/berthd/berth/manager/stores"
)

func main() { os.Exit(grpcserve.Main(run)) }

func run(ctx context.Context, args []string) (err error) {
	options, err := parseFlags(args, os.Stdout)
	if err != nil {
		return err
	}
	notify := readiness()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: options.level}))
	locks, err := lockDirectories(options.root, options.state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, locks.close()) }()
	db, err := store.Open(options.root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	clients, err := stores.Connect(ctx, stores.Config{
		Root: options.root, ContentAddress: options.contentAddress, SnapshotterAddress: options.snapshotterAddress,
		Snapshotter: options.snapshotter, Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()

	d := &daemon{options: options, log: log, db: db, clients: clients, events: events.NewBroker()}
	if err := d.build(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.networks.Close(context.WithoutCancel(ctx))) }()
	defer d.containers.Close()
	listeners, err := options.listen()
	if err != nil {
		return err
	}
	if err := d.images.Start(ctx); err != nil {
		return err
	}
	if err := d.containers.Restore(ctx); err != nil {
		log.Error("cannot restore everything of an earlier berthd", "error", err)
	}
	if err := notify(); err != nil {
		log.Error(err.Error())
	}
	debug.FreeOSMemory() // what starting took is not needed again
	return grpcserve.ServeListeners(ctx, listeners, log, func(r grpc.ServiceRegistrar) { d.services().Register(ctx, r) })
}
