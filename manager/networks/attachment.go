package networks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/internal/atomicfile"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// attachment is what is kept of a container's place in its networks, once it has it. What a crash cuts off before that
// is known to the plugins only, and GC makes them remove it.
type attachment struct {
	Netns     string     `json:"netns"`
	Endpoints []endpoint `json:"endpoints"`
	Ports     []port     `json:"ports"`
}

// endpoint is a container's place in one network.
type endpoint struct {
	Network   string `json:"network"`
	NetworkID string `json:"networkId"`
	Interface string `json:"interface"`
	// Plugins are what it was attached with: a network may be defined otherwise by the time it is detached.
	Plugins   json.RawMessage   `json:"plugins"`
	Requested *berthv1.Endpoint `json:"requested"`
	MAC       string            `json:"mac"`
	Addresses []string          `json:"addresses"`
	Gateways  []string          `json:"gateways"`
}

func (e endpoint) state() *berthv1.EndpointState {
	return &berthv1.EndpointState{
		Config: e.Requested, NetworkId: e.NetworkID, Interface: e.Interface, MacAddress: e.MAC, Addresses: e.Addresses, Gateways: e.Gateways,
	}
}

func (a *attachment) result() Result {
	var result Result
	for _, e := range a.Endpoints {
		result.Endpoints = append(result.Endpoints, e.state())
	}
	for _, p := range a.Ports {
		result.Ports = append(result.Ports, p.mapping())
	}
	return result
}

// attachmentDir holds a file for each attachment. It lies in the state directory, as no attachment outlives a reboot,
// and so nothing has to reach the disk before a container starts.
type attachmentDir string

const attachmentSuffix = ".json"

func (d attachmentDir) path(containerID string) string {
	return filepath.Join(string(d), containerID+attachmentSuffix)
}

// load reads all attachments. One that can't be read is removed, as its write was cut off: GC then makes the plugins remove what is
// there of it, and no single file keeps berthd from starting.
func (d attachmentDir) load(log *slog.Logger) (map[string]*attachment, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of attachments: %w", err)
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("cannot list attachments: %w", err)
	}
	found := map[string]*attachment{}
	for _, entry := range entries {
		path := filepath.Join(string(d), entry.Name())
		id, is := strings.CutSuffix(entry.Name(), attachmentSuffix)
		a := &attachment{}
		content, err := os.ReadFile(path)
		if err == nil && is {
			err = json.Unmarshal(content, a)
		}
		if err == nil && is {
			found[id] = a
			continue
		}
		log.Warn("an attachment that can't be read is removed", "file", path, "error", errors.Join(err, os.RemoveAll(path)))
	}
	return found, nil
}

func (d attachmentDir) put(containerID string, a *attachment) error {
	content, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("cannot encode an attachment: %w", err)
	}
	return atomicfile.WriteVolatile(d.path(containerID), content, 0o600)
}

func (d attachmentDir) delete(containerID string) error {
	if err := os.Remove(d.path(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove an attachment: %w", err)
	}
	return nil
}

// save records how a container is attached.
func (s *Service) save(containerID string, a *attachment) error {
	if err := s.attachments.put(containerID, a); err != nil {
		return err
	}
	copied := *a
	s.mu.Lock()
	s.attached[containerID] = &copied
	s.mu.Unlock()
	return nil
}

func (s *Service) forget(containerID string) error {
	if err := s.attachments.delete(containerID); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.attached, containerID)
	s.mu.Unlock()
	return nil
}
