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
	// assumed says that the file can't be read. The endpoints are then all that the container may have, so that they are
	// kept while the container is there, and removed with it.
	assumed bool
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
	if a.assumed {
		return result
	}
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

// load reads all attachments. For one that can't be read, assumed says what its container may have. Other files, as a killed
// write leaves them, are removed.
func (d attachmentDir) load(log *slog.Logger, assumed func() *attachment) (map[string]*attachment, error) {
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
		if !is {
			log.Warn("a file that is no attachment is removed", "file", path, "error", os.RemoveAll(path))
			continue
		}
		a := &attachment{}
		content, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(content, a)
		}
		if err != nil {
			log.Warn("an attachment can't be read: all that its container may have in networks is kept", "file", path, "error", err)
			a = assumed()
		}
		found[id] = a
	}
	return found, nil
}

// assume returns the attachment of a container of which nothing is known: an interface of each name in each network. Calls
// that remove what is not there do nothing.
func (s *Service) assume() *attachment {
	const interfaces = 8
	a := &attachment{assumed: true}
	for _, d := range s.networks {
		if d.Driver != driverBridge || !s.hasState(d) {
			continue
		}
		_, raw, err := s.plugins(d, "")
		if err != nil {
			s.cfg.Logger.Error("cannot tell how containers are connected to a network", "network", d.Name, "error", err)
			continue
		}
		for i := range min(interfaces, len(s.networks)) {
			a.Endpoints = append(a.Endpoints, endpoint{Network: d.Name, NetworkID: d.ID, Interface: fmt.Sprintf("eth%d", i), Plugins: raw})
		}
	}
	return a
}

func (d attachmentDir) put(containerID string, a *attachment) error {
	content, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("cannot encode an attachment: %w", err)
	}
	return atomicfile.WriteVolatile(d.path(containerID), content, 0o600)
}

func (d attachmentDir) delete(containerID string) error {
	if err := os.RemoveAll(d.path(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
