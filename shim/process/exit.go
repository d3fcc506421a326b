package process

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berthd/berth/internal/atomicfile"
	"github.com/berthd/berth/internal/errdefs"
)

// ExitRecord is exit.json of a bundle: how the container ended, kept for a manager that was away, even if the shim
// is gone too when it comes back.
type ExitRecord struct {
	Version    int       `json:"version"` // of this struct: 1
	Pid        int       `json:"pid"`
	ExitStatus int       `json:"exit_status"`
	ExitedAt   time.Time `json:"exited_at"`
	OOMKilled  bool      `json:"oom_killed,omitempty"` // the kernel killed a process of it because memory was short
}

const exitFile = "exit.json"

func writeExit(bundle string, record ExitRecord) error {
	record.Version = 1
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("cannot encode the exit state: %w", err)
	}
	return atomicfile.WriteVolatile(filepath.Join(bundle, exitFile), append(data, '\n'), 0o600)
}

// ReadExit returns how the container of a bundle ended. The error is os.ErrNotExist if that is not known. A file that a
// power failure has cut off counts as none: it must not keep the container from being removed.
func ReadExit(bundle string) (ExitRecord, error) {
	var record ExitRecord
	data, err := os.ReadFile(filepath.Join(bundle, exitFile))
	if err != nil {
		return record, fmt.Errorf("cannot read the exit state: %w", err)
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, errdefs.As(os.ErrNotExist, fmt.Errorf("cannot read the exit state of bundle %q: %w", bundle, err))
	}
	return record, nil
}
