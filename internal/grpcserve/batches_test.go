package grpcserve

import (
	"slices"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"google.golang.org/protobuf/proto"
)

func TestBatches(t *testing.T) {
	var list []*contentapi.Info
	for _, size := range []int{10, 10, batchSize - 10, 3 * batchSize, 10, batchSize / 2, batchSize / 2, 1} {
		list = append(list, &contentapi.Info{Digest: strings.Repeat("d", size)})
	}
	var lengths []int
	var all []*contentapi.Info
	for batch := range Batches(list) {
		if len(batch) > 1 && proto.Size(&contentapi.ListContentResponse{Info: batch}) > batchSize+100 {
			t.Errorf("a batch of %d is too large", len(batch))
		}
		lengths = append(lengths, len(batch))
		all = append(all, batch...)
	}
	if want := []int{2, 1, 1, 2, 2}; !slices.Equal(lengths, want) || !slices.Equal(all, list) {
		t.Errorf("batches of %v, want %v", lengths, want)
	}
	for range Batches([]*contentapi.Info(nil)) {
		t.Error("a batch of nothing")
	}
}
