// Package options reads what managers say about the OCI runtime: containerd's options for runc, or, as CRI sends them to
// the shim of any other runtime, the same in TOML.
package options

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	runc "github.com/containerd/containerd/api/types/runc/options"
	generic "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/berthd/berth/internal/errdefs"
)

// The names of the messages.
const (
	runcOptions    = "containerd.runc.v1.Options"
	genericOptions = "runtimeoptions.v1.Options"
)

// Decode returns the options of a request, which may have none.
func Decode(from *anypb.Any) (*runc.Options, error) {
	opts := &runc.Options{}
	switch name := string(from.MessageName()); {
	case from.GetTypeUrl() == "":
		return opts, nil
	case name == runcOptions:
		return opts, unmarshal(from, opts)
	case name == genericOptions:
		var message generic.Options
		if err := unmarshal(from, &message); err != nil {
			return nil, err
		}
		return decodeTOML(&message)
	default:
		return nil, refuse(fmt.Errorf("cannot use options of type %q: %s or %s is wanted", name, runcOptions, genericOptions))
	}
}

// DecodeCheckpoint returns the options of a request for a checkpoint.
func DecodeCheckpoint(from *anypb.Any) (*runc.CheckpointOptions, error) {
	const kind = "containerd.runc.v1.CheckpointOptions"
	opts := &runc.CheckpointOptions{}
	if from.GetTypeUrl() == "" {
		return opts, nil
	}
	if name := string(from.MessageName()); name != kind {
		return nil, refuse(fmt.Errorf("cannot use options of type %q: %s is wanted", name, kind))
	}
	return opts, unmarshal(from, opts)
}

func unmarshal(from *anypb.Any, to proto.Message) error {
	if err := proto.Unmarshal(from.GetValue(), to); err != nil {
		return refuse(fmt.Errorf("cannot decode the options: %w", err))
	}
	return nil
}

func refuse(err error) error { return errdefs.As(errdefs.ErrInvalidArgument, err) }

// section is what the options of a runtime may have in containerd's configuration, or in the file that it names. The names
// are those of runc's options.
type section struct {
	TypeURL    string `toml:"TypeUrl"`    // of the format: what this is
	ConfigPath string `toml:"ConfigPath"` // of the file in place of the section

	BinaryName, Root            string
	SystemdCgroup               bool
	NoPivotRoot, NoNewKeyring   bool
	ShimCgroup                  string
	IoUID                       uint32 `toml:"IoUid"`
	IoGID                       uint32 `toml:"IoGid"`
	CriuImagePath, CriuWorkPath string
}

// decodeTOML reads the file that the options name, or the section that they carry.
func decodeTOML(message *generic.Options) (*runc.Options, error) {
	if url := message.GetTypeUrl(); url != "" && url != runcOptions && url != genericOptions {
		return nil, refuse(fmt.Errorf("cannot use options of type %q: %s is wanted", url, runcOptions))
	}
	text, source := message.GetConfigBody(), "the options"
	if path := message.GetConfigPath(); path != "" {
		source = fmt.Sprintf("the options in %q", path)
		var err error
		if text, err = os.ReadFile(path); err != nil {
			return nil, refuse(fmt.Errorf("cannot read the options: %w", err))
		}
	}
	var s section
	if err := parse(text, &s); err != nil {
		return nil, refuse(fmt.Errorf("cannot use %s: %w", source, err))
	}
	return &runc.Options{
		BinaryName: s.BinaryName, Root: s.Root, SystemdCgroup: s.SystemdCgroup, NoPivotRoot: s.NoPivotRoot,
		NoNewKeyring: s.NoNewKeyring, ShimCgroup: s.ShimCgroup, IoUid: s.IoUID, IoGid: s.IoGID,
		CriuImagePath: s.CriuImagePath, CriuWorkPath: s.CriuWorkPath,
	}, nil
}

// parse refuses keys that have no meaning here, by name and line.
func parse(text []byte, into *section) error {
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	err := decoder.Decode(into)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		line, _ := unknown.Errors[0].Position()
		return fmt.Errorf("line %d: there is no option %q", line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}
