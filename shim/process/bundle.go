package process

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/shim/runtimecmd"
)

// runtimeFile of a bundle says which runtime made the container: what the delete verb needs when the shim is dead.
const runtimeFile = "runtime.json"

type runtimeRecord struct {
	Version int `json:"version"` // of this struct: 1
	runtimecmd.Runtime
}

// SaveRuntime writes the bundle's runtime.json.
func SaveRuntime(bundle string, r runtimecmd.Runtime) error {
	data, err := json.Marshal(runtimeRecord{Version: 1, Runtime: r})
	if err != nil {
		return fmt.Errorf("cannot encode the runtime's options: %w", err)
	}
	return atomicfile.WriteVolatile(filepath.Join(bundle, runtimeFile), append(data, '\n'), 0o600)
}

// LoadRuntime reads the bundle's runtime.json. The error is os.ErrNotExist if no container was ever created in it.
func LoadRuntime(bundle string) (runtimecmd.Runtime, error) {
	data, err := os.ReadFile(filepath.Join(bundle, runtimeFile))
	if err != nil {
		return runtimecmd.Runtime{}, fmt.Errorf("cannot read the runtime's options: %w", err)
	}
	var record runtimeRecord
	if err := json.Unmarshal(data, &record); err != nil {
		return runtimecmd.Runtime{}, fmt.Errorf("cannot read the runtime's options of bundle %q: %w", bundle, err)
	}
	return record.Runtime, nil
}

// InitPid returns the pid of the bundle's container, 0 if it is not known.
func InitPid(bundle string) int {
	data, err := os.ReadFile(filepath.Join(bundle, "init.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}
