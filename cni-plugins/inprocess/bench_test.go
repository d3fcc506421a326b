package inprocess_test

import (
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/berthd/berth/cni-plugins/inprocess"
)

// BenchmarkAttach measures ADD and DEL of a whole chain with one published port, and libcni's cache.
func BenchmarkAttach(b *testing.B) {
	exec := inprocess.New(inprocess.WithNetns(newNamespace(b)))
	defer exec.Close()
	cni := libcni.NewCNIConfigWithCacheDir(nil, b.TempDir(), exec)
	list := network(b, b.TempDir(), "")
	first := newNamespace(b) // a bridge is slower with its first port
	if _, err := cni.AddNetworkList(b.Context(), list, conf("first", first, 7999)); err != nil {
		b.Fatal(err)
	}
	netns := newNamespace(b)
	b.Run("ADD", func(b *testing.B) {
		for b.Loop() {
			if _, err := cni.AddNetworkList(b.Context(), list, conf("c", netns, 8000)); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := cni.DelNetworkList(b.Context(), list, conf("c", netns, 8000)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("DEL", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if _, err := cni.AddNetworkList(b.Context(), list, conf("c", netns, 8000)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := cni.DelNetworkList(b.Context(), list, conf("c", netns, 8000)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
