package contentstore

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthd/berth/internal/dbroom"
	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/labels"
)

// writer is an ingest that is being written. It has one user, the stream that opened it; only aborted is set by others.
type writer struct {
	store *Store
	scope scope
	key   ingestKey
	dir   string
	since time.Time

	file      *os.File
	status    *contentapi.Status // Offset counts what was taken, which the lanes may still be working on
	algorithm digest.Algorithm
	hash      hash.Hash
	hasher    *lane
	disk      *lane

	filled    extent
	aborted   atomic.Bool
	committed bool
	updated   atomic.Pointer[time.Time] // the last write, if there was one
}

// extent says how far the file of a writer has come.
type extent struct {
	written, flushing int64 // behind the last byte written, behind the last on its way to disk
	reserved          int64 // room that was reserved at the start; guarded by store.mu
}

// flushStep is how much is written before the kernel is told to start putting it on disk. So little is left to wait
// for at the commit.
const flushStep = 8 << 20

// readBuffer is for hashing what an earlier writer left.
const readBuffer = 1 << 20

func (w *writer) open(total int64, expected string) (err error) {
	if err := w.store.db.View(w.scope.checkLease); err != nil {
		return err
	}
	if w.status, err = w.resume(total, expected); err != nil {
		return err
	}
	if err := writeState(w.dir, w.status); err != nil {
		return err
	}
	w.file, err = os.OpenFile(filepath.Join(w.dir, "data"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := w.start(); err != nil {
		_ = w.file.Close()
		if w.status.Offset == 0 { // there is nothing to resume
			_ = os.RemoveAll(w.dir)
		}
		return err
	}
	return nil
}

// resume returns the status of the ingest as it was left, or a new one.
func (w *writer) resume(total int64, expected string) (*contentapi.Status, error) {
	status, err := readState(w.dir)
	if missing(err) {
		now := timestamppb.Now()
		return &contentapi.Status{Ref: w.key.ref, StartedAt: now, UpdatedAt: now, Total: max(total, 0), Expected: expected}, nil
	}
	if errors.Is(err, errdefs.ErrDataLoss) {
		w.store.log.Warn("an ingest can't be resumed and begins anew", "ref", w.key.ref, "error", err)
		if err := os.RemoveAll(w.dir); err != nil {
			return nil, err
		}
		return w.resume(total, expected)
	}
	if err != nil {
		return nil, err
	}
	if total > 0 && status.Total > 0 && total != status.Total {
		return nil, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
			"it was begun with a total of %d bytes, now there shall be %d", status.Total, total))
	}
	if total > 0 {
		status.Total = total
	}
	if expected != "" {
		status.Expected = expected
	}
	return status, nil
}

// start hashes what is there, reserves the room for what will come, and starts the lanes.
func (w *writer) start() error {
	n, err := w.rehash()
	if err != nil {
		return err
	}
	w.status.Offset, w.filled.written, w.filled.flushing = n, n, n
	if err := w.reserve(n); err != nil {
		return err
	}
	w.hasher = newLane(func(chunk []byte) error {
		_, err := w.hash.Write(chunk)
		return err
	})
	w.disk = newLane(w.writeChunk)
	return nil
}

// rehash hashes the whole file with the algorithm of the digest that is expected, and returns its size.
func (w *writer) rehash() (int64, error) {
	w.algorithm = w.wantedAlgorithm()
	w.hash = w.algorithm.Hash()
	size, err := w.file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	_, err = io.CopyBuffer(w.hash, io.NewSectionReader(w.file, 0, size), make([]byte, readBuffer))
	return size, err
}

func (w *writer) wantedAlgorithm() digest.Algorithm {
	if expected := w.status.Expected; expected != "" {
		return digest.Digest(expected).Algorithm()
	}
	return digest.Canonical
}

// expect replaces what is known of the result, as far as the arguments say something.
func (w *writer) expect(total int64, expected string) error {
	if total > 0 {
		w.status.Total = total
	}
	if expected == "" || expected == w.status.Expected {
		return nil
	}
	if _, err := parseDigest(expected); err != nil {
		return err
	}
	w.status.Expected = expected
	if w.wantedAlgorithm() == w.algorithm {
		return nil
	}
	if err := w.flush(); err != nil {
		return w.fail(err)
	}
	_, err := w.rehash()
	return err
}

func (w *writer) writeChunk(chunk []byte) error {
	n, err := w.file.WriteAt(chunk, w.filled.written)
	w.filled.written += int64(n)
	if err != nil {
		return err
	}
	if w.filled.written-w.filled.flushing >= flushStep {
		// Only a hint: whether the data is on disk, the commit finds out.
		_ = unix.SyncFileRange(int(w.file.Fd()), w.filled.flushing, w.filled.written-w.filled.flushing, unix.SYNC_FILE_RANGE_WRITE)
		w.filled.flushing = w.filled.written
	}
	return nil
}

// write takes a chunk. The caller may not change it afterwards. It is not on disk before the commit has returned, and
// an error in writing it may come with a later call.
func (w *writer) write(chunk []byte) error {
	if w.aborted.Load() {
		return w.fail(errAborted())
	}
	if err := w.hasher.push(chunk); err != nil {
		return w.fail(err)
	}
	if err := w.disk.push(chunk); err != nil {
		return w.fail(err)
	}
	w.status.Offset += int64(len(chunk))
	now := time.Now()
	w.updated.Store(&now)
	w.status.UpdatedAt = timestamppb.New(now)
	return nil
}

func errAborted() error {
	return errdefs.As(errdefs.ErrAborted, errors.New("the ingest was aborted"))
}

func (w *writer) fail(err error) error {
	return fmt.Errorf("cannot write ingest %q: %w", w.key.ref, err)
}

func (w *writer) flush() error {
	return errors.Join(w.hasher.flush(), w.disk.flush())
}

// digest returns the digest of what was taken so far, all of which may not be written yet.
func (w *writer) digest() (digest.Digest, error) {
	if err := w.hasher.flush(); err != nil {
		return "", w.fail(err)
	}
	return digest.NewDigest(w.algorithm, w.hash), nil
}

// restart throws away what was taken.
func (w *writer) restart() error {
	if err := w.flush(); err != nil {
		return w.fail(err)
	}
	if err := w.file.Truncate(0); err != nil {
		return w.fail(err)
	}
	w.hash.Reset()
	w.filled.written, w.filled.flushing, w.status.Offset = 0, 0, 0
	return nil
}

// close ends the use of the writer and unlocks its ref. An ingest that is not committed can be resumed.
func (w *writer) close() {
	w.hasher.stop()
	w.disk.stop()
	if !w.committed {
		w.leave()
	}
	_ = w.file.Close() // nothing depends on it: a commit has synced before
	w.store.unlock(w)
}

// leave gives back the room that was reserved, and puts the time of the last write on the file: the kernel's clock for
// files is coarser, and the ingest's time must not go back.
func (w *writer) leave() {
	if err := w.file.Truncate(w.filled.written); err != nil {
		w.store.log.Warn("an unfinished ingest keeps the room that was reserved for it", "ref", w.key.ref, "error", err)
	}
	_ = os.Chtimes(filepath.Join(w.dir, "data"), time.Time{}, w.status.UpdatedAt.AsTime()) // it may have been aborted
}

// commit makes the blob durable and visible, in this order, and ends the ingest. With ErrAlreadyExists the ingest has
// ended too: the blob is there.
func (w *writer) commit(wanted map[string]string) (digest.Digest, error) {
	d, err := w.settle(wanted)
	if err != nil {
		return "", fmt.Errorf("cannot commit ingest %q: %w", w.key.ref, err)
	}
	err = w.publish(d, wanted)
	if err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) {
		return "", fmt.Errorf("cannot commit ingest %q: %w", w.key.ref, err)
	}
	w.committed = true
	w.store.discard(w.dir)
	return d, err
}

// settle checks that the data is what was expected and puts it on disk.
func (w *writer) settle(wanted map[string]string) (digest.Digest, error) {
	if err := labels.Check(wanted); err != nil {
		return "", err
	}
	if w.aborted.Load() {
		return "", errAborted()
	}
	if err := w.flush(); err != nil {
		return "", err
	}
	got, err := w.digest()
	if err != nil {
		return "", err
	}
	if w.status.Total > 0 && w.status.Total != w.status.Offset {
		return "", errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf(
			"it has %d bytes, expected were %d", w.status.Offset, w.status.Total))
	}
	if expected := w.status.Expected; expected != "" && expected != got.String() {
		return "", errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("its digest is %s, expected was %s", got, expected))
	}
	if err := w.file.Truncate(w.status.Offset); err != nil { // gives back what was reserved and not used
		return "", err
	}
	return got, unix.Fdatasync(int(w.file.Fd()))
}

// publish moves the data to its place and records the blob. If the place is taken, it is by the same content: every
// file is complete before it gets there. The data is moved, not linked: after a crash an ingest that can be resumed must
// not lead to a committed blob.
func (w *writer) publish(d digest.Digest, wanted map[string]string) error {
	s := w.store
	s.files.Lock()
	defer s.files.Unlock()
	if w.aborted.Load() {
		return errAborted()
	}
	if err := w.place(s.blobPath(d)); err != nil {
		return err
	}
	existed, err := w.record(d, wanted)
	if err != nil {
		return errors.Join(err, s.unlinkUnheld([]digest.Digest{d}))
	}
	if existed {
		return errdefs.As(errdefs.ErrAlreadyExists, fmt.Errorf("content %s exists already", d))
	}
	return nil
}

// place moves the data to path, durably, unless path is taken.
func (w *writer) place(path string) error {
	dir := filepath.Dir(path)
	if err := ensureDir(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return syncDir(dir) // whoever moved it there may have failed to
	}
	if err := w.file.Chmod(0o444); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(w.dir, "data"), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// record makes the namespace hold the blob, and says whether it did so already.
func (w *writer) record(d digest.Digest, wanted map[string]string) (existed bool, err error) {
	err = dbroom.Update(w.store.db, func(tx *bbolt.Tx) error {
		held, err := getBlob(tx, w.key.namespace, d)
		if err != nil {
			return err
		}
		if err := w.scope.attach(tx, resourceContent, d.String()); err != nil {
			return err
		}
		if existed = held != nil; existed {
			return nil
		}
		now := timestamppb.Now()
		return putBlob(tx, w.key.namespace, &contentapi.Info{
			Digest: d.String(), Size: w.status.Offset, CreatedAt: now, UpdatedAt: now, Labels: wanted,
		})
	})
	return existed, err
}
