package plugin

import (
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthd/berth/cni-plugins/internal/netns"
)

// OpenNetns opens the container's network namespace. It refuses that of the host, where a plugin would change the host's own
// interfaces.
func (r *Request) OpenNetns() (netns.Handle, error) {
	ns, err := netns.Open(r.Netns)
	if err != nil {
		return netns.Handle{}, err
	}
	same, err := ns.IsCurrent()
	if err == nil && same {
		err = types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("network namespace %q is the host's", r.Netns), "")
	}
	if err != nil {
		ns.Close()
		return netns.Handle{}, err
	}
	return ns, nil
}
