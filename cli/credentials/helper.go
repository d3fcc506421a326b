package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

// helperTimeout is how long a helper may take. It is long, because some ask the user for a passphrase.
const helperTimeout = 2 * time.Minute

// maxHelperOutput bounds what is read of a helper's answer.
const maxHelperOutput = 1 << 20

// tokenUser is the user name by which helpers tell an identity token from a password.
const tokenUser = "<token>"

// errNotStored is what helpers print when they have nothing for a server.
const errNotStored = "credentials not found in native keychain"

// helper is the program docker-credential-NAME: a verb as its argument, a server or JSON on its input.
type helper string

// secret is what goes to a helper and comes from it.
type secret struct {
	ServerURL string `json:"ServerURL"`
	Username  string `json:"Username"`
	Secret    string `json:"Secret"`
}

func (h helper) get(ctx context.Context, server string) (*berthv1.RegistryAuth, error) {
	output, err := h.run(ctx, "get", server)
	if err != nil || output == "" {
		return nil, err
	}
	var s secret
	if err := json.Unmarshal([]byte(output), &s); err != nil {
		return nil, fmt.Errorf("cannot read the answer of docker-credential-%s: %w", string(h), err)
	}
	if s.Username == tokenUser {
		return &berthv1.RegistryAuth{IdentityToken: s.Secret}, nil
	}
	return &berthv1.RegistryAuth{Username: s.Username, Password: s.Secret}, nil
}

func (h helper) store(ctx context.Context, server string, auth *berthv1.RegistryAuth) error {
	s := secret{ServerURL: server, Username: auth.GetUsername(), Secret: auth.GetPassword()}
	if token := auth.GetIdentityToken(); token != "" {
		s.Username, s.Secret = tokenUser, token
	}
	input, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, "store", string(input))
	return err
}

func (h helper) erase(ctx context.Context, server string) error {
	_, err := h.run(ctx, "erase", server)
	return err
}

// run returns what the helper printed, nothing if it has no such credentials.
func (h helper) run(ctx context.Context, verb, input string) (string, error) {
	if strings.ContainsAny(string(h), "/\\") {
		return "", fmt.Errorf("cannot use the credential helper %q: want a name without a path", string(h))
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(caller, helperTimeout)
	defer cancel()
	program := "docker-credential-" + string(h)
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second // a child of the helper may hold the pipes
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	output := strings.TrimSpace(stdout.String())
	switch {
	case err == nil:
		return output, nil
	case strings.Contains(output, errNotStored):
		return "", nil
	case caller.Err() != nil:
		return "", fmt.Errorf("cannot use %s: it was interrupted: %w", program, caller.Err())
	case ctx.Err() != nil:
		return "", fmt.Errorf("cannot use %s: no answer to %q within %v", program, verb, helperTimeout)
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("cannot use %s, which config.json names: it is not in PATH", program)
	}
	if text := strings.TrimSpace(output + " " + strings.TrimSpace(stderr.String())); text != "" {
		return "", fmt.Errorf("cannot use %s: %s", program, text)
	}
	return "", fmt.Errorf("cannot use %s: %w", program, err)
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(maxHelperOutput-l.Len(), 0))])
	return len(p), nil
}
