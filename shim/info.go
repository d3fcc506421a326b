package main

import (
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"github.com/berthd/berth/internal/version"
)

// info answers containerd 2, which asks every shim what it is.
func info(out io.Writer) error {
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name:    "io.containerd.berth.v2",
		Version: &types.RuntimeVersion{Version: version.Release, Revision: version.Commit()},
	})
	if err != nil {
		return fmt.Errorf("cannot encode the runtime information: %w", err)
	}
	_, err = out.Write(data)
	return err
}
