// Command berth-snapshotter serves snapshots on a unix socket, to berthd (--snapshotter-address) or to containerd (as a
// proxy plugin of type "snapshot").
package main

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc"

	"github.com/berthd/berth/internal/grpcserve"
	"github.com/berthd/berth/snapshotter"
)

func main() { os.Exit(grpcserve.Main(run)) }

func run(ctx context.Context, args []string) error {
	flags := grpcserve.NewFlags("berth-snapshotter", "/var/lib/berth/snapshots", "/run/berth/snapshots.sock")
	layout := flags.Set.String("layout", "", "how snapshots lie on disk: `overlay` or native (default: overlay where it works)")
	if err := flags.Parse(args, os.Stdout); err != nil {
		return err
	}
	log := flags.Logger()
	s, err := snapshotter.Open(flags.Root, snapshotter.Options{Layout: *layout, Logger: log})
	if err != nil {
		return err
	}
	log.Info("opened", "root", flags.Root, "layout", s.Name())
	err = grpcserve.Serve(ctx, flags.Address, log, func(r grpc.ServiceRegistrar) { snapshotter.Register(r, s) })
	return errors.Join(err, s.Close())
}
