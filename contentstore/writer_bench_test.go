package contentstore

import (
	"testing"
)

// BenchmarkIngest is the store without the way to it: hash, write, sync, record.
func BenchmarkIngest(b *testing.B) {
	const size, chunk = 64 << 20, 1 << 20
	store, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	sc := scope{namespace: "test"}
	content := make([]byte, size)
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		content[0], content[1] = byte(i), byte(i>>8)
		w, err := store.begin(sc, "layer", size, "")
		if err != nil {
			b.Fatal(err)
		}
		for offset := 0; offset < size; offset += chunk {
			if err := w.write(content[offset : offset+chunk]); err != nil {
				b.Fatal(err)
			}
		}
		d, err := w.commit(nil)
		w.close()
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := store.delete(sc, d); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
