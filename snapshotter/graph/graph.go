// Package graph records which snapshots exist, what each one stands on and what it holds, in a bbolt database. It knows
// nothing of files.
package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/labels"
)

// The database:
//
//	snapshots/<name>                -> id, size, inodes (three big-endian uint64), then a containerd Info message
//	children/<parent> NUL <child>   -> nothing
//
// The sequence of the bucket snapshots is the highest id ever given.
var ( // constant, as far as Go lets a byte slice be
	bucketSnapshots = []byte("snapshots")
	bucketChildren  = []byte("children")
)

// Snapshot is one node, with what is needed to find its files.
type Snapshot struct {
	// ID names the snapshot's directory. It is never given again.
	ID uint64
	// Parents are the ids of what the snapshot stands on, the nearest first.
	Parents []uint64
	// Info is what the API tells of it.
	Info *snapshotsapi.Info
	// Size and Inodes are what a committed snapshot takes on disk.
	Size, Inodes int64
}

// Graph is an open database. Its methods are safe for concurrent use.
type Graph struct {
	db *bbolt.DB
}

const lockTimeout = 3 * time.Second

// Open opens the database at path or creates it. It can be open only once: a second Open fails with ErrUnavailable.
func Open(path string) (*Graph, error) {
	db, err := dbroom.Open(path, &bbolt.Options{
		Timeout:        lockTimeout,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, errdefs.As(errdefs.ErrUnavailable, errors.New("another process has it open"))
	}
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketSnapshots)
		_, childErr := tx.CreateBucketIfNotExists(bucketChildren)
		return errors.Join(err, childErr)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	_ = dbroom.Keep(db) // without the room only deletions on a full disk fail
	return &Graph{db: db}, nil
}

// Close waits for transactions under way and closes the database.
func (g *Graph) Close() error { return g.db.Close() }

// LastID returns the highest id that a snapshot has ever had.
func (g *Graph) LastID() (id uint64, err error) {
	err = g.db.View(func(tx *bbolt.Tx) error {
		id = tx.Bucket(bucketSnapshots).Sequence()
		return nil
	})
	return id, err
}

// Get returns a snapshot by name.
func (g *Graph) Get(name string) (s Snapshot, err error) {
	err = g.db.View(func(tx *bbolt.Tx) error {
		s, err = get(tx, name)
		return err
	})
	return s, err
}

// Plan returns the snapshot that Insert would record for info, or why it would refuse.
func (g *Graph) Plan(id uint64, info *snapshotsapi.Info) (s Snapshot, err error) {
	err = g.db.View(func(tx *bbolt.Tx) error {
		s, err = plan(tx, id, info)
		return err
	})
	return s, err
}

// Insert records a snapshot that Plan has returned, unless the graph has changed so that it may not exist any more.
func (g *Graph) Insert(s Snapshot) error {
	return dbroom.Update(g.db, func(tx *bbolt.Tx) error {
		now, err := plan(tx, s.ID, s.Info)
		if err != nil {
			return err
		}
		if len(now.Parents) > 0 && now.Parents[0] != s.Parents[0] {
			return errdefs.As(errdefs.ErrAborted, fmt.Errorf("parent %q was replaced meanwhile", s.Info.Parent))
		}
		if bucket := tx.Bucket(bucketSnapshots); bucket.Sequence() < s.ID {
			if err := bucket.SetSequence(s.ID); err != nil {
				return err
			}
		}
		return put(tx, s)
	})
}

func plan(tx *bbolt.Tx, id uint64, info *snapshotsapi.Info) (Snapshot, error) {
	if err := checkName("key", info.Name); err != nil {
		return Snapshot{}, err
	}
	if err := labels.Check(info.Labels); err != nil {
		return Snapshot{}, err
	}
	if tx.Bucket(bucketSnapshots).Get([]byte(info.Name)) != nil {
		return Snapshot{}, exists(info.Name)
	}
	s := Snapshot{ID: id, Info: info}
	var err error
	s.Parents, err = parentsOf(tx, info.Parent)
	return s, err
}

// parentsOf returns the ids of a chain of committed snapshots from its top down.
func parentsOf(tx *bbolt.Tx, name string) ([]uint64, error) {
	if name == "" {
		return nil, nil
	}
	parent, err := get(tx, name)
	if err != nil {
		return nil, fmt.Errorf("cannot use parent: %w", err)
	}
	if parent.Info.Kind != snapshotsapi.Kind_COMMITTED {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("parent %q is not a committed snapshot", name))
	}
	return append([]uint64{parent.ID}, parent.Parents...), nil
}

// Remove takes a snapshot out of the graph, also one whose record can't be read, and returns its id, or 0 if that is not
// known. It refuses while others stand on it.
func (g *Graph) Remove(name string) (id uint64, err error) {
	err = g.db.Update(func(tx *bbolt.Tx) error {
		s, err := get(tx, name)
		if err != nil && !errors.Is(err, errdefs.ErrDataLoss) {
			return err
		}
		unreadable := err != nil
		prefix := name + "\x00"
		if child, _ := tx.Bucket(bucketChildren).Cursor().Seek([]byte(prefix)); strings.HasPrefix(string(child), prefix) {
			return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("snapshot %q has a child, %q", name, child[len(prefix):]))
		}
		id = s.ID
		if unreadable {
			return dropUnreadable(tx, name)
		}
		return drop(tx, s)
	})
	return id, err
}

// Update changes a snapshot's labels as an update with the given field mask asks.
func (g *Graph) Update(info *snapshotsapi.Info, mask []string) (updated *snapshotsapi.Info, err error) {
	err = dbroom.Update(g.db, func(tx *bbolt.Tx) error {
		s, err := get(tx, info.Name)
		if err != nil {
			return err
		}
		if s.Info.Labels, err = labels.Update(s.Info.Labels, info.Labels, mask); err != nil {
			return fmt.Errorf("cannot update snapshot %q: %w", info.Name, err)
		}
		s.Info.UpdatedAt = timestamppb.Now()
		updated = s.Info
		return put(tx, s)
	})
	return updated, err
}

// Walk calls f for every snapshot, in the order of their names. It sees the graph as it was when it began. Parents are
// not filled in. A record that can't be read is given with its error; its Info has at most a name, and its ID may be 0.
func (g *Graph) Walk(f func(Snapshot, error)) error {
	return g.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSnapshots).ForEach(func(name, value []byte) error {
			f(decode(name, value))
			return nil
		})
	})
}

func get(tx *bbolt.Tx, name string) (Snapshot, error) {
	bucket := tx.Bucket(bucketSnapshots)
	value := bucket.Get([]byte(name))
	if value == nil {
		return Snapshot{}, errdefs.As(errdefs.ErrNotFound, fmt.Errorf("snapshot %q does not exist", name))
	}
	s, err := decode([]byte(name), value)
	for next := s.Info.GetParent(); err == nil && next != ""; {
		var parent Snapshot
		parent, err = decode([]byte(next), bucket.Get([]byte(next)))
		s.Parents = append(s.Parents, parent.ID)
		next = parent.Info.GetParent()
	}
	return s, err
}

func put(tx *bbolt.Tx, s Snapshot) error {
	value := make([]byte, 0, headerSize+proto.Size(s.Info))
	for _, n := range []uint64{s.ID, uint64(s.Size), uint64(s.Inodes)} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	value, err := proto.MarshalOptions{}.MarshalAppend(value, s.Info)
	if err != nil {
		return err
	}
	if s.Info.Parent != "" {
		if err := tx.Bucket(bucketChildren).Put([]byte(s.Info.Parent+"\x00"+s.Info.Name), nil); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketSnapshots).Put([]byte(s.Info.Name), value)
}

func drop(tx *bbolt.Tx, s Snapshot) error {
	if s.Info.Parent != "" {
		if err := tx.Bucket(bucketChildren).Delete([]byte(s.Info.Parent + "\x00" + s.Info.Name)); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketSnapshots).Delete([]byte(s.Info.Name))
}

// dropUnreadable removes a snapshot whose record does not tell what it stands on.
func dropUnreadable(tx *bbolt.Tx, name string) error {
	children := tx.Bucket(bucketChildren)
	suffix := []byte("\x00" + name)
	var link []byte
	c := children.Cursor()
	for key, _ := c.First(); key != nil && link == nil; key, _ = c.Next() {
		if bytes.HasSuffix(key, suffix) {
			link = bytes.Clone(key)
		}
	}
	if link != nil {
		if err := children.Delete(link); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketSnapshots).Delete([]byte(name))
}

const headerSize = 3 * 8

func decode(name, value []byte) (Snapshot, error) {
	s := Snapshot{Info: &snapshotsapi.Info{}}
	if len(value) < headerSize {
		return Snapshot{Info: &snapshotsapi.Info{Name: string(name)}}, damaged(name, errors.New("it is missing or too short"))
	}
	s.ID = binary.BigEndian.Uint64(value)
	s.Size = int64(binary.BigEndian.Uint64(value[8:]))
	s.Inodes = int64(binary.BigEndian.Uint64(value[16:]))
	if err := proto.Unmarshal(value[headerSize:], s.Info); err != nil {
		s.Info = &snapshotsapi.Info{Name: string(name)}
		return s, damaged(name, err)
	}
	return s, nil
}

func damaged(name []byte, err error) error {
	return errdefs.As(errdefs.ErrDataLoss, fmt.Errorf("cannot decode the record of snapshot %q: %w", name, err))
}

func exists(name string) error {
	return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("snapshot %q exists already", name))
}

const maxName = 8192

func checkName(what, name string) error {
	var problem string
	switch {
	case name == "":
		problem = "it is empty"
	case len(name) > maxName:
		problem = fmt.Sprintf("it has %d bytes, the maximum is %d", len(name), maxName)
	case strings.ContainsRune(name, 0):
		problem = "it contains a NUL"
	default:
		return nil
	}
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("invalid snapshot %s %q: %s", what, name, problem))
}
