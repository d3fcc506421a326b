package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/internal/sys"
	"github.com/berthd/berth/internal/version"
	"github.com/berthd/berth/shim/options"
	"github.com/berthd/berth/shim/reaper"
	"github.com/berthd/berth/shim/runtimecmd"
)

// featuresType is what containerd calls the answer of a runtime's command features.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// info answers containerd 2, which asks every shim what it is, with the options of the runtime on stdin. CRI tells kubelet
// from the runtime's features which kinds of pods can run here.
func info(ctx context.Context, in *os.File, out io.Writer) error {
	given, err := givenOptions(in)
	if err != nil {
		return err
	}
	answer := &types.RuntimeInfo{
		Name:    "io.containerd.berth.v2",
		Version: &types.RuntimeVersion{Version: version.Release, Revision: version.Commit()},
		Options: given,
	}
	if features, err := features(ctx, given); err != nil {
		report(err) // a shim without its runtime can still say what it is
	} else {
		answer.Features = &anypb.Any{TypeUrl: featuresType, Value: features}
	}
	data, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("cannot encode the runtime information: %w", err)
	}
	_, err = out.Write(data)
	return err
}

// optionsTime bounds the wait for options on a stdin that nobody writes or closes.
const optionsTime = 5 * time.Second

// givenOptions returns what the manager wrote to stdin: an Any, or nothing.
func givenOptions(in *os.File) (*anypb.Any, error) {
	if info, err := in.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return nil, nil // a terminal, /dev/null, or none
	}
	type content struct {
		data []byte
		err  error
	}
	read := make(chan content, 1)
	go func() {
		data, err := io.ReadAll(in)
		read <- content{data, err}
	}()
	select {
	case c := <-read:
		given := &anypb.Any{}
		if c.err != nil || len(c.data) == 0 {
			return nil, c.err
		}
		if err := proto.Unmarshal(c.data, given); err != nil {
			return nil, fmt.Errorf("cannot decode the options: %w", err)
		}
		return given, nil
	case <-time.After(optionsTime):
		return nil, errors.New("cannot read the options: stdin does not end")
	}
}

// features has the runtime of the options tell what it can do, in JSON.
func features(ctx context.Context, given *anypb.Any) ([]byte, error) {
	opts, err := options.Decode(given)
	if err != nil {
		return nil, err
	}
	binary, err := runtimecmd.Find(runtimecmd.Name(opts))
	if err != nil {
		return nil, err
	}
	reap, err := reaper.New()
	if err != nil {
		return nil, err
	}
	defer reap.Close()
	dir, err := os.MkdirTemp("", "shim-info-")
	if err != nil {
		return nil, fmt.Errorf("cannot ask the runtime for its features: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fd, err := sys.DataFile("features")
	if err != nil {
		return nil, fmt.Errorf("cannot ask the runtime for its features: %w", os.NewSyscallError("memfd_create", err))
	}
	output := os.NewFile(uintptr(fd), "features")
	defer func() { _ = output.Close() }()
	runtime := runtimecmd.Runtime{Binary: binary, Root: dir}
	call := runtimecmd.Call{Args: []string{"features"}, Dir: dir, LogFile: dir + "/log", Files: [3]*os.File{1: output}}
	if err := runtime.Run(ctx, reap, call); err != nil {
		return nil, fmt.Errorf("cannot ask %q for its features: %w", binary, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(output, 0, 1<<20))
	if err == nil && !json.Valid(data) {
		err = errors.New("they are not in JSON")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the features of %q: %w", binary, err)
	}
	return data, nil
}
