package plugin

import (
	"strings"

	"github.com/berthd/berth/cni-plugins/internal/nft"
)

// Table returns the nftables table that the configuration chooses with nftTable, a key of ours.
func (r *Request) Table() (nft.Table, error) {
	var conf struct {
		NftTable string `json:"nftTable"`
	}
	if err := r.Decode(&conf); err != nil {
		return nft.Table{}, err
	}
	table, err := nft.Named(conf.NftTable, r.Sockets)
	if err != nil {
		return nft.Table{}, InvalidConfig("network %q: %v", r.Common.Name, err)
	}
	return table, nil
}

// Own returns a test for the entries of the request's attachment.
func (r *Request) Own() func(owner string) bool {
	own := r.Owner()
	return func(owner string) bool { return owner == own }
}

// Stale returns a test for the entries of the request's network that GC has to remove.
func (r *Request) Stale() func(owner string) bool {
	valid := r.valid()
	return func(owner string) bool {
		return strings.HasPrefix(owner, shorten(r.Common.Name)+" ") && !valid[owner]
	}
}
