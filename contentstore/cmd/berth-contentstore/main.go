// Command berth-contentstore serves a content store on a unix socket, to berthd (--content-address) or to containerd (as
// a proxy plugin of type "content").
package main

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc"

	"github.com/berthd/berth/contentstore"
	"github.com/berthd/berth/internal/grpcserve"
)

func main() { os.Exit(grpcserve.Main(run)) }

func run(ctx context.Context, args []string) error {
	flags := grpcserve.NewFlags("berth-contentstore", "/var/lib/berth/content", "/run/berth/content.sock")
	if err := flags.Parse(args, os.Stdout); err != nil {
		return err
	}
	log := flags.Logger()
	store, err := contentstore.Open(flags.Root, contentstore.Options{Logger: log})
	if err != nil {
		return err
	}
	err = grpcserve.Serve(ctx, flags.Address, log, func(r grpc.ServiceRegistrar) { contentstore.Register(r, store) })
	return errors.Join(err, store.Close())
}
