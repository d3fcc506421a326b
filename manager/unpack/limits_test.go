package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/berthd/berth/internal/errdefs"
)

// An archive of a few kilobytes must not cost the host millions of inodes or gigabytes of memory.
func TestApplyCountsEntries(t *testing.T) {
	needRoot(t)
	limits := Limits{Size: 1 << 30, Ratio: 200, Entries: 1000}
	var many []tar.Header
	for i := range 1001 {
		many = append(many, file(strconv.Itoa(i), ""))
	}
	for name, layer := range map[string][]tar.Header{"files": many, "directories that no entry names": {file(strings.Repeat("d/", 1001)+"f", "")}} {
		if err := applyWithin(t, t.TempDir(), archive(t, layer...), limits); !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("%s: got %v, want ErrResourceExhausted", name, err)
		}
	}
	if err := applyWithin(t, t.TempDir(), archive(t, many[:900]...), limits); err != nil {
		t.Errorf("an honest layer got %v", err)
	}
	again := append(many[:500:500], many[:500]...)
	if err := applyWithin(t, t.TempDir(), archive(t, append(again, many[:500]...)...), limits); err != nil {
		t.Errorf("a layer that names its files three times got %v", err)
	}
}

func TestBudgetsFollowTheCompressedSize(t *testing.T) {
	limits := DefaultLimits()
	for compressed, want := range map[int64]int64{0: 1 << 30, 1 << 20: 1 << 30, 1 << 25: 200 << 25, 1 << 40: 128 << 30} {
		if got := limits.budgets(compressed).data.limit; got != want {
			t.Errorf("%d bytes may become %d, want %d", compressed, got, want)
		}
	}
	if err := limits.budgets(1).files.take(100 << 30); err != nil {
		t.Errorf("a file of 100 GiB that is one hole: %v", err)
	}
}

// Attributes are no way around the limit of the data on disk: they are compressed as well as files are.
func TestApplyCountsAttributes(t *testing.T) {
	needRoot(t)
	var layer []tar.Header
	for i := range 10 {
		layer = append(layer, tar.Header{
			Name: fmt.Sprint("file", i), Typeflag: tar.TypeReg, PAXRecords: map[string]string{xattrPrefix + "user.x": strings.Repeat("x", 200)},
		})
	}
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	limits := DefaultLimits()
	limits.Size = 64 << 10 // more than the archive has
	budgets := limits.budgets(0)
	budgets.data.limit = 1000
	a := newApplier(root, budgets)
	if err := a.run(t.Context(), bytes.NewReader(archive(t, layer...))); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("got %v", err)
	}
}
