// Package config reads and checks a bundle's config.json.
package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Load reads and checks the config.json of the bundle.
func Load(bundle string) (*specs.Spec, error) {
	content, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle's configuration: %w", err)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(content, spec); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return spec, nil
}
