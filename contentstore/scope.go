package contentstore

import (
	"context"
	"fmt"
	"regexp"

	"go.etcd.io/bbolt"
	"google.golang.org/grpc/metadata"

	"github.com/berthd/berth/internal/errdefs"
)

// The gRPC metadata by which containerd's clients say where they act.
const (
	headerNamespace = "containerd-namespace"
	headerLease     = "containerd-lease"
)

// defaultNamespace takes what a request without a namespace creates.
const defaultNamespace = "default"

const maxIdentifier = 76

var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// scope is where a request acts.
type scope struct {
	// namespace is where the request creates things, and with all unset the only one it sees.
	namespace string
	// all says that the request named no namespace and sees every one.
	all bool
	// lease takes what the request creates, if it is not empty.
	lease string
}

// scopeOf reads the scope of a request from its headers.
func scopeOf(ctx context.Context) (scope, error) {
	sc := scope{namespace: header(ctx, headerNamespace), lease: header(ctx, headerLease)}
	if sc.namespace == "" {
		sc.namespace, sc.all = defaultNamespace, true
		return sc, nil
	}
	return sc, checkIdentifier("namespace", sc.namespace)
}

func header(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// checkIdentifier holds names to containerd's rule. It also makes them safe as file names: nothing with a slash or a
// leading dot passes.
func checkIdentifier(what, name string) error {
	if len(name) > maxIdentifier || !identifier.MatchString(name) {
		return errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf(
			"invalid %s %q: it must be at most %d letters and digits, with single '.', '_' or '-' between them", what, name, maxIdentifier))
	}
	return nil
}

// visible returns the namespaces that the scope sees in tx. The one where it creates comes first.
func (sc scope) visible(tx *bbolt.Tx) []string {
	if !sc.all {
		return []string{sc.namespace}
	}
	names := []string{sc.namespace}
	for _, name := range allNamespaces(tx) {
		if name != sc.namespace {
			names = append(names, name)
		}
	}
	return names
}

// readable returns the namespaces whose blobs the scope can read, its own first. In a namespace that has never had a lease
// of ours these are all: it belongs to a containerd above this store, which keeps namespaces of its own, asks here in the
// name of one of them whether another has brought a blob already, and then reads it.
func (sc scope) readable(tx *bbolt.Tx) []string {
	if sc.ownLeases(tx) {
		return sc.visible(tx)
	}
	return scope{namespace: sc.namespace, all: true}.visible(tx)
}

// attach adds a resource to the request's lease, if it has one.
func (sc scope) attach(tx *bbolt.Tx, kind, id string) error {
	if err := sc.checkLease(tx); err != nil || sc.lease == "" || !sc.ownLeases(tx) {
		return err
	}
	return addResource(tx, sc.namespace, sc.lease, kind, id)
}

// checkLease fails if the request names a lease that does not exist, except in a namespace that has never had a lease of
// ours: there the leases are kept by a containerd above this store, which also decides what is deleted.
func (sc scope) checkLease(tx *bbolt.Tx) error {
	if sc.lease == "" || !sc.ownLeases(tx) {
		return nil
	}
	if lookup(tx, []byte(sc.namespace), bucketLeases).Get([]byte(sc.lease)) == nil {
		return noLease(sc.lease)
	}
	return nil
}

func (sc scope) ownLeases(tx *bbolt.Tx) bool {
	return lookup(tx, []byte(sc.namespace), bucketLeases) != nil
}
