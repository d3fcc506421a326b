package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthd/berth/internal/errdefs"
	"github.com/berthd/berth/internal/version"
)

// authorizer sends requests to one registry and answers its demands for credentials. The client library's own knows
// one challenge a response and refuses token servers at private addresses, which companies have beside their registries.
type authorizer struct {
	http        *http.Client
	credentials Credentials
	// host is where the credentials belong, as URLs have it.
	host string

	// fetching is held while a token is fetched, so that parallel transfers fetch one.
	fetching chan struct{}
	mu       sync.Mutex
	basic    bool             // the registry has asked for Basic
	tokens   map[string]token // by the scopes of requests
}

func newAuthorizer(client *http.Client, host string, credentials Credentials) *authorizer {
	return &authorizer{http: client, host: host, credentials: credentials, fetching: make(chan struct{}, 1), tokens: map[string]token{}}
}

// Do implements remote.Client: it sends a request, if need be a second time with what the registry demands.
func (a *authorizer) Do(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	scopes := auth.GetAllScopesForHost(ctx, a.host)
	used := a.known(strings.Join(scopes, " "))
	response, err := a.send(request, used)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	// Another origin, where a redirect led, gets no credentials of this registry.
	if !sameOrigin(request.URL, response.Request.URL) {
		return response, nil
	}
	wanted, ok := choose(challenges(response.Header))
	if !ok {
		return response, nil
	}
	answer, err := a.answer(ctx, request.URL, wanted, scopes, used)
	if err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	if answer == used {
		return response, nil // it has been refused
	}
	_ = response.Body.Close()
	if request.Body != nil && request.Body != http.NoBody {
		if request.GetBody == nil {
			return nil, errdefs.As(errdefs.ErrUnavailable, errors.New("the registry wanted new credentials in the middle of an upload"))
		}
		if request.Body, err = request.GetBody(); err != nil {
			return nil, err
		}
	}
	return a.send(request, answer)
}

func (a *authorizer) send(request *http.Request, authorization string) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("User-Agent", "berth/"+version.Release)
	request.Header.Del("Authorization")
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return a.http.Do(request)
}

// known returns what to send with a request at once, as the registry has asked for it before.
func (a *authorizer) known(scopes string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.basic {
		return a.basicHeader()
	}
	if t, there := a.tokens[scopes]; there && time.Now().Before(t.expires) {
		return "Bearer " + t.value
	}
	return ""
}

func (a *authorizer) basicHeader() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.credentials.Username+":"+a.credentials.Password))
}

// answer returns the Authorization header that a challenge asks for. refused is the one that the registry did not take.
func (a *authorizer) answer(ctx context.Context, registry *url.URL, c challenge, scopes []string, refused string) (string, error) {
	if c.scheme == "basic" {
		if a.credentials.Username == "" {
			return "", noCredentials(a.host)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.basic = true
		return a.basicHeader(), nil
	}
	if a.credentials.RegistryToken != "" {
		return "Bearer " + a.credentials.RegistryToken, nil
	}
	select {
	case a.fetching <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-a.fetching }()
	key := strings.Join(scopes, " ")
	if other := a.known(key); other != "" && other != refused {
		return other, nil // a request beside this one has fetched it
	}
	realm, err := checkRealm(ctx, c.parameters["realm"], registry)
	if err != nil {
		return "", err
	}
	wanted := slices.Concat(scopes, strings.Fields(c.parameters["scope"]))
	fetched, err := a.fetchToken(ctx, tokenRequest{realm: realm, service: c.parameters["service"], scopes: auth.CleanScopes(wanted)})
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[key] = fetched
	return "Bearer " + fetched.value, nil
}

func noCredentials(host string) error {
	return errdefs.As(errdefs.ErrUnauthenticated, fmt.Errorf("the registry asks for credentials: %s", loginHint(host)))
}

// loginHint is the command that gives credentials for a registry.
func loginHint(host string) string {
	if host == dockerHub {
		return `log in with "berth login"`
	}
	return fmt.Sprintf(`log in with "berth login %s"`, host)
}

// followRedirect drops the Authorization header once a request leaves the registry's origin. net/http itself does so
// only where the host's name changes, not for another port.
func followRedirect(request *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("the registry redirects more than 10 times")
	}
	first := via[0].URL
	if first.Scheme == "https" && request.URL.Scheme != "https" {
		return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("the registry redirects from https to %s", request.URL.Scheme))
	}
	for _, hop := range append(via, request) {
		if !sameOrigin(first, hop.URL) {
			request.Header.Del("Authorization")
		}
	}
	return nil
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"https": "443", "http": "80"}[strings.ToLower(u.Scheme)]
}
