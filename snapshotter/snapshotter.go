// Package snapshotter keeps the layers of images and the writable layers of containers, and serves them as
// containerd's snapshots service.
//
// # The life of a layer
//
// A snapshot is a file system tree at one moment. It has a name, which its user chooses, at most one parent, and a
// kind. Unpacking an image makes one for each of its layers, from the bottom up. Prepare makes an *active* snapshot,
// writable, which shows everything that its parent has, and tells how to mount it:
//
//	mounts := Prepare("extract-1", parent="")
//	mount(mounts, "/tmp/x"); untar(layer1, "/tmp/x"); unmount("/tmp/x")
//
// The snapshotter never mounts anything itself. When the tree is as it should be, Commit makes it *committed*: it can
// not change any more, has a new name (by custom the chain id of its layer), and others can stand on it:
//
//	Commit(name="sha256:aaa…", key="extract-1")
//	mounts = Prepare("extract-2", parent="sha256:aaa…")
//	mount(mounts, "/tmp/x"); untar(layer2, "/tmp/x"); unmount("/tmp/x")
//	Commit(name="sha256:bbb…", key="extract-2")
//
// If unpacking fails, Remove takes the active snapshot away, and nobody has seen a half layer. A layer that was
// prepared on nothing, because its parent was still being unpacked, can be put on it by naming the parent in Commit.
//
// A container runs on an active snapshot of its own, which is never committed. What it writes stays there, so two
// containers of one image don't see each other's changes. Mounts tells the mounts again, for a restart:
//
//	mounts = Prepare("container-7", parent="sha256:bbb…")
//	...
//	Remove("container-7")
//
// View is a Prepare that cannot be written to. Remove refuses a snapshot that others stand on: a chain goes from its
// top down. Nothing goes by itself.
//
// # What is promised
//
// Names belong to one space, whatever namespace a request comes from: containerd, with this snapshotter as a proxy
// plugin, puts the namespace into the name and walks them all.
// Every call is all or nothing, also when the process dies in the middle: the graph (package graph) decides what
// exists, and directories that it doesn't know are removed by Open, by Cleanup, and behind Remove's back. The graph is on
// disk before a call is answered. The files of a layer are not ours to sync: whoever writes them does that before Commit,
// or a power failure soon after can leave some of them empty.
//
// How a tree lies on disk and how it is mounted is the matter of a layout: package overlay puts what a snapshot adds
// into a directory and lets overlayfs stack them, package native copies the parent's tree.
package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/snapshotter/graph"
	"github.com/berthd/berth/snapshotter/native"
	"github.com/berthd/berth/snapshotter/overlay"
)

// The layouts that Options.Layout can name.
const (
	Overlay = "overlay"
	Native  = "native"
)

// Options adjust a snapshotter. The zero value is ready to use.
type Options struct {
	// Layout is Overlay, Native, or empty for overlay where the kernel and the file system can do it and native
	// elsewhere. A directory keeps the layout that it was created with.
	Layout string
	// Logger is told what is repaired. The default is slog.Default().
	Logger *slog.Logger
}

// layout is how the files of snapshots lie on disk. Each snapshot has a directory of its own, which exists and is
// empty when Make is called.
type layout interface {
	// Make fills the directory of a snapshot. What is there of it is left as it is.
	Make(s graph.Snapshot) error
	// Complete says whether all is there that Make makes.
	Complete(s graph.Snapshot) bool
	// Mounts tells how to mount a snapshot.
	Mounts(s graph.Snapshot) []*types.Mount
	// Usage measures what a snapshot takes on disk.
	Usage(ctx context.Context, s graph.Snapshot) (size, inodes int64, err error)
	// Rebase says whether a snapshot that was made on nothing can be put on a parent later.
	Rebase() bool
}

// Snapshotter is an open directory of snapshots. Its methods are safe for concurrent use.
type Snapshotter struct {
	name   string
	dir    string
	log    *slog.Logger
	graph  *graph.Graph
	layout layout

	mu     sync.Mutex
	lastID uint64
	making map[uint64]bool // directories of snapshots that the graph doesn't know yet
	// removing are the directories that are being removed. Each channel is closed at the end of it.
	removing map[string]chan struct{}
	closed   bool

	alive   context.Context //nolint:containedctx // it ends with Close, and cuts off what is being removed then
	end     context.CancelFunc
	remover sync.WaitGroup // the goroutines that remove directories
}

// Open opens the snapshots in dir, creating it if it is not there, and begins to remove what a crash left behind. A
// directory can be open only once: a second Open fails with ErrUnavailable.
func Open(dir string, options Options) (*Snapshotter, error) {
	s := &Snapshotter{dir: filepath.Join(dir, "snapshots"), log: options.Logger, making: map[uint64]bool{}, removing: map[string]chan struct{}{}}
	s.alive, s.end = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = slog.Default()
	}
	// Mounted layers are reached by the ids of containers' users, who may pass but not list.
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o711}, {s.dir, 0o711}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return nil, fmt.Errorf("cannot create snapshot directory %q: %w", dir, err)
		}
		if err := widen(d.path, d.mode); err != nil {
			return nil, fmt.Errorf("cannot open snapshot directory %q: %w", dir, err)
		}
	}
	g, err := graph.Open(filepath.Join(dir, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("cannot open snapshot directory %q: %w", dir, err)
	}
	s.graph = g
	// The database and the directories may be new.
	if err := errors.Join(atomicfile.SyncDir(filepath.Dir(dir)), atomicfile.SyncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open snapshot directory %q: %w", dir, err), g.Close())
	}
	if err := s.prepare(options.Layout); err != nil {
		_ = g.Close()
		return nil, fmt.Errorf("cannot open snapshot directory %q: %w", dir, err)
	}
	return s, nil
}

func (s *Snapshotter) prepare(name string) (err error) {
	if s.lastID, err = s.highestID(); err != nil {
		return err
	}
	orphans, err := s.orphans()
	if err != nil {
		return err
	}
	if s.name, err = chooseLayout(filepath.Dir(s.dir), name); err != nil {
		return err
	}
	switch s.name {
	case Overlay:
		s.layout = overlay.New(s.dir)
	case Native:
		s.layout = native.New(s.dir)
	}
	if err := s.restore(); err != nil {
		return err
	}
	// A container can leave a tree that takes minutes to remove.
	s.remover.Go(func() { s.removeOrphans(orphans) })
	return nil
}

// Name returns the layout in use: Overlay or Native.
func (s *Snapshotter) Name() string { return s.name }

// closePatience is how long Close waits for directories that are being removed.
const closePatience = 5 * time.Second

// Close waits for directories that are being removed, but not for one that takes long: the next Open goes on with it.
// Then it closes the graph.
func (s *Snapshotter) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	limit := time.AfterFunc(closePatience, s.end)
	s.remover.Wait()
	limit.Stop()
	s.end()
	if err := s.graph.Close(); err != nil {
		return fmt.Errorf("cannot close snapshot directory %q: %w", filepath.Dir(s.dir), err)
	}
	return nil
}

// widen gives a directory the permissions that it lacks: a narrow umask may have taken them.
func widen(dir string, mode os.FileMode) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode()&mode == mode {
		return err
	}
	return os.Chmod(dir, info.Mode()|mode)
}

func unknownLayout(name string) error {
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("unknown layout %q: it can be %q, %q or empty", name, Overlay, Native))
}
