package plugin

import (
	"crypto/sha256"
	"encoding/hex"
)

// Owner names the attachment that the request is about, in the form that kernel objects carry as their comment:
//
//	NETWORK CONTAINER INTERFACE
//
// No part has a space in it. The kernel keeps at most 255 bytes, so that long parts are cut and end in a hash.
func (r *Request) Owner() string {
	return owner(r.Common.Name, r.ContainerID, r.IfName)
}

// valid are the owners that GC must keep, from cni.dev/valid-attachments.
func (r *Request) valid() map[string]bool {
	valid := make(map[string]bool, len(r.Common.ValidAttachments))
	for _, attachment := range r.Common.ValidAttachments {
		valid[owner(r.Common.Name, attachment.ContainerID, attachment.IfName)] = true
	}
	return valid
}

func owner(network, container, ifName string) string {
	return shorten(network) + " " + shorten(container) + " " + ifName
}

func shorten(name string) string {
	if len(name) <= 100 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:60] + "-" + hex.EncodeToString(sum[:16])
}
