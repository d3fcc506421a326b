package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/berthd/berth/internal/errdefs"
)

// dockerHub is the host that serves the images of docker.io.
const dockerHub = "registry-1.docker.io"

// Login asks a registry whether it accepts credentials. It returns a token to keep in place of the password, if the
// registry gives one. ErrUnauthenticated: it does not accept them.
func (c *Client) Login(ctx context.Context, host string, options Options) (identityToken string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*tokenTimeout)
	defer cancel()
	if host == "docker.io" || host == "index.docker.io" {
		host = dockerHub
	}
	scheme := "https"
	if plainHTTP(host, options.Insecure) {
		scheme = "http"
	}
	a := newAuthorizer(c.http, host, options.Credentials)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/", scheme, host), nil)
	if err != nil {
		return "", errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("cannot use %q as a registry: %w", host, err))
	}
	response, err := a.send(request, "")
	if err != nil {
		return "", classify(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusUnauthorized {
		return "", loginResult(response)
	}
	wanted, ok := choose(challenges(response.Header))
	if !ok {
		return "", errdefs.As(errdefs.ErrFailedPrecondition, errors.New("the registry asks for credentials in none of the ways that are implemented: Basic and Bearer"))
	}
	authorization := a.basicHeader()
	if wanted.scheme == "bearer" {
		realm, err := checkRealm(ctx, wanted.parameters["realm"], request.URL)
		if err != nil {
			return "", err
		}
		fetched, err := a.fetchToken(ctx, tokenRequest{realm: realm, service: wanted.parameters["service"], offline: true})
		if err != nil {
			return "", err
		}
		authorization, identityToken = "Bearer "+fetched.value, fetched.identity
	}
	second, err := a.send(request, authorization)
	if err != nil {
		return "", classify(err)
	}
	defer func() { _ = second.Body.Close() }()
	return identityToken, loginResult(second)
}

func loginResult(response *http.Response) error {
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return responseError(response)
}
