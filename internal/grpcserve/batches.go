package grpcserve

import (
	"iter"

	"google.golang.org/protobuf/proto"
)

// batchSize is how much a message of a list has, unless one object alone has more. It is well below the 4 MiB that a
// client of gRPC takes by default.
const batchSize = 1 << 20

// Batches splits a list into parts that fit into a message each.
func Batches[T proto.Message](list []T) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for len(list) > 0 {
			size, n := 0, 0
			for n < len(list) {
				size += proto.Size(list[n])
				if n > 0 && size > batchSize {
					break
				}
				n++
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}
