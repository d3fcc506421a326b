// Package credentials keeps what registries ask for, in the places that Docker's command line uses: the file
// config.json of $DOCKER_CONFIG or ~/.docker, and the programs docker-credential-* that it names.
package credentials

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/berthd/berth/internal/atomicfile"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// dockerHub is the key of docker.io's credentials, from the time of the first registry protocol.
const dockerHub = "https://index.docker.io/v1/"

// Config is a config.json. What berth does not know in it stays as it is.
type Config struct {
	path string
	raw  map[string]json.RawMessage
	// auths are the entries of the file itself, by key.
	auths map[string]json.RawMessage
	// store is the helper for all registries, helpers those for single ones.
	store   string
	helpers map[string]string
}

// entry is one of auths. Other fields, as email, are nobody's any more.
type entry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Path returns where config.json is, whether it exists or not.
func Path() (string, error) {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	if home := os.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".docker", "config.json"), nil
	}
	me, err := user.Current() // services are started without $HOME
	if err != nil {
		return "", fmt.Errorf("cannot find config.json: %w", err)
	}
	return filepath.Join(me.HomeDir, ".docker", "config.json"), nil
}

// Load reads config.json. A file that does not exist is an empty one.
func Load() (*Config, error) {
	path, err := Path()
	if err != nil {
		return nil, err
	}
	c := &Config{path: path, raw: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the credentials: %w", err)
	}
	if len(strings.TrimSpace(string(content))) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(content, &c.raw); err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", path, err)
	}
	for key, into := range map[string]any{"auths": &c.auths, "credsStore": &c.store, "credHelpers": &c.helpers} {
		if value, there := c.raw[key]; there {
			if err := json.Unmarshal(value, into); err != nil {
				return nil, fmt.Errorf("cannot read the field %q of %q: %w", key, path, err)
			}
		}
	}
	if c.auths == nil { // null
		c.auths = map[string]json.RawMessage{}
	}
	return c, nil
}

// ForImage returns the credentials for the registry of an image, nil if there are none.
func ForImage(ctx context.Context, reference string) (*berthv1.RegistryAuth, error) {
	return For(ctx, Domain(reference))
}

// For returns the credentials for a registry, nil if there are none.
func For(ctx context.Context, registry string) (*berthv1.RegistryAuth, error) {
	c, err := Load()
	if err != nil {
		return nil, err
	}
	return c.Get(ctx, registry)
}

// Domain returns the registry of an image's name, by Docker's rule: the part before the first slash, if it looks like
// a host.
func Domain(reference string) string {
	first, _, found := strings.Cut(reference, "/")
	if !found || first != "localhost" && !strings.ContainsAny(first, ".:") && strings.ToLower(first) == first {
		return "docker.io"
	}
	return first
}

// Host returns the host, with its port, of a registry as people and files write it: "https://host/v1/" is host. All
// names of Docker Hub are docker.io.
func Host(registry string) string {
	_, rest, found := strings.Cut(registry, "://")
	if !found {
		rest = registry
	}
	host, _, _ := strings.Cut(rest, "/")
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// key is what a registry's entry is called where berth makes it.
func key(registry string) string {
	if host := Host(registry); host != "docker.io" {
		return host
	}
	return dockerHub
}

// helperOf returns the program that keeps a registry's credentials, empty if the file does.
func (c *Config) helperOf(registry string) string {
	for name, program := range c.helpers {
		if Host(name) == Host(registry) {
			return program
		}
	}
	return c.store
}

// Get returns the credentials for a registry, nil if there are none.
func (c *Config) Get(ctx context.Context, registry string) (*berthv1.RegistryAuth, error) {
	if program := c.helperOf(registry); program != "" {
		return helper(program).get(ctx, key(registry))
	}
	stored, there := c.auths[key(registry)]
	if !there {
		for name, other := range c.auths {
			if Host(name) == Host(registry) {
				stored, there = other, true
			}
		}
	}
	if !there {
		return nil, nil
	}
	found, err := parseEntry(stored)
	if err != nil {
		return nil, fmt.Errorf("cannot read the entry of %s in %q: %w", Host(registry), c.path, err)
	}
	return found, nil
}

func parseEntry(raw json.RawMessage) (*berthv1.RegistryAuth, error) {
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	auth := &berthv1.RegistryAuth{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return nil, fmt.Errorf("auth is not base64: %w", err)
		}
		username, password, found := strings.Cut(string(decoded), ":")
		if !found {
			return nil, errors.New(`auth is not "username:password"`)
		}
		auth.Username, auth.Password = username, strings.Trim(password, "\x00")
	}
	if auth.GetUsername() == "" && auth.GetIdentityToken() == "" && auth.GetRegistryToken() == "" {
		return nil, nil // as {}, which Docker leaves beside a helper
	}
	return auth, nil
}

// Put keeps the credentials for a registry. It returns the path of the file that has them in the clear, empty if a
// helper keeps them.
func (c *Config) Put(ctx context.Context, registry string, auth *berthv1.RegistryAuth) (inClear string, err error) {
	e := entry{IdentityToken: auth.GetIdentityToken()}
	if program := c.helperOf(registry); program != "" {
		if err := helper(program).store(ctx, key(registry), auth); err != nil {
			return "", err
		}
		// Docker, too, leaves an empty entry: it lists the registries that a helper has.
		return "", c.set(registry, entry{})
	}
	secret := auth.GetPassword()
	if e.IdentityToken != "" {
		secret = ""
	}
	e.Auth = base64.StdEncoding.EncodeToString([]byte(auth.GetUsername() + ":" + secret))
	return c.path, c.set(registry, e)
}

// Erase forgets the credentials for a registry, and tells whether there were any.
func (c *Config) Erase(ctx context.Context, registry string) (there bool, err error) {
	program := c.helperOf(registry)
	if program != "" {
		found, err := helper(program).get(ctx, key(registry))
		if err != nil {
			return false, err
		}
		if there = found != nil; there {
			if err := helper(program).erase(ctx, key(registry)); err != nil {
				return false, err
			}
		}
	}
	changed := false
	for name := range c.auths {
		if Host(name) == Host(registry) {
			delete(c.auths, name)
			changed, there = true, true
		}
	}
	if !changed {
		return there, nil
	}
	return true, c.save()
}

func (c *Config) set(registry string, e entry) error {
	for name := range c.auths {
		if Host(name) == Host(registry) {
			delete(c.auths, name)
		}
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	c.auths[key(registry)] = raw
	return c.save()
}

// save replaces the file, or the one that a link in its place leads to, readable by its owner only.
func (c *Config) save() error {
	auths, err := json.Marshal(c.auths)
	if err != nil {
		return err
	}
	c.raw["auths"] = auths
	content, err := json.MarshalIndent(c.raw, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return fmt.Errorf("cannot keep the credentials: %w", err)
	}
	path := c.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	before, statErr := os.Stat(path)
	if err := atomicfile.Write(path, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot keep the credentials: %w", err)
	}
	if statErr == nil {
		return keepOwner(path, before)
	}
	return nil
}

// keepOwner gives a file that was replaced to the owner of the one before: sudo may leave $HOME to its caller, who could not
// read a file of root's any more.
func keepOwner(path string, before os.FileInfo) error {
	owner, ok := before.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() {
		return nil
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("cannot give the credentials back to their owner: %w", err)
	}
	return nil
}
