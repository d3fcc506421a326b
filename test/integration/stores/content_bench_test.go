package stores_test

import (
	"crypto/sha256"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/opencontainers/go-digest"
)

// benchmarkBlob is a layer of ordinary size, sent in chunks as containerd sends them.
const (
	benchmarkBlob  = 64 << 20
	benchmarkChunk = 1 << 20
)

// BenchmarkIngest writes a blob through the socket and commits it; BenchmarkSHA256 is the part of that which nobody can
// leave out.
func BenchmarkIngest(b *testing.B) {
	s, ctx := startContent(b), namespace(b, "test")
	content := random(benchmarkChunk)
	content = append(content, make([]byte, benchmarkBlob-len(content))...)
	b.SetBytes(benchmarkBlob)
	for i := 0; b.Loop(); i++ {
		content[0], content[1] = byte(i), byte(i>>8)
		c := s.converse(ctx)
		for offset := 0; offset < len(content); offset += benchmarkChunk {
			c.mustAsk(&contentapi.WriteContentRequest{
				Action: contentapi.WriteAction_WRITE, Ref: "layer", Total: benchmarkBlob,
				Offset: int64(offset), Data: content[offset : offset+benchmarkChunk],
			})
		}
		done := c.mustAsk(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Offset: benchmarkBlob})
		b.StopTimer()
		if want := digest.FromBytes(content).String(); done.Digest != want {
			b.Fatalf("committed %s, want %s", done.Digest, want)
		}
		if _, err := s.content().Delete(ctx, &contentapi.DeleteContentRequest{Digest: done.Digest}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkSHA256(b *testing.B) {
	content := make([]byte, benchmarkBlob)
	b.SetBytes(benchmarkBlob)
	for b.Loop() {
		sha256.Sum256(content)
	}
}
