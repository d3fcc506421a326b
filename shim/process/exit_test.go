package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadExitOfADamagedFile(t *testing.T) {
	bundle := t.TempDir()
	for _, content := range []string{"", `{"version":1,`} {
		if err := os.WriteFile(filepath.Join(bundle, exitFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadExit(bundle); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", content, err)
		}
	}
}
