package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/berthd/berth/internal/errdefs"
)

const (
	// tokenTimeout bounds one request for a token.
	tokenTimeout = 30 * time.Second
	// maxTokenAnswer is far above a token, which has to fit into a header.
	maxTokenAnswer = 128 << 10
	// tokenLifetime is that of a token without expires_in, by the token specification of the distribution project.
	tokenLifetime = 60 * time.Second
	// tokenMargin is left when a token is used: it must still be valid when the request arrives.
	tokenMargin = 5 * time.Second
	clientID    = "berth"
)

// token is a bearer token for some scopes.
type token struct {
	value   string
	expires time.Time
	// identity is a refresh token, where the server gives one.
	identity string
}

// tokenRequest is what a Bearer challenge asks for.
type tokenRequest struct {
	realm   *url.URL
	service string
	scopes  []string
	// offline asks for a refresh token, too.
	offline bool
}

// fetchToken asks a token server: with a refresh token by POST (OAuth2), otherwise by GET as the distribution project
// specifies. A server that only knows POST is asked by it for a password grant.
func (a *authorizer) fetchToken(ctx context.Context, r tokenRequest) (token, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	if refresh := a.credentials.IdentityToken; refresh != "" {
		return a.postToken(ctx, r, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
	}
	response, err := a.getToken(ctx, r)
	if err != nil {
		return token{}, err
	}
	defer func() { _ = response.Body.Close() }()
	onlyPost := response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusMethodNotAllowed
	if onlyPost && a.credentials.Username != "" {
		return a.postToken(ctx, r, url.Values{
			"grant_type": {"password"}, "username": {a.credentials.Username}, "password": {a.credentials.Password},
		})
	}
	return a.readToken(response)
}

func (a *authorizer) getToken(ctx context.Context, r tokenRequest) (*http.Response, error) {
	address := *r.realm
	query := address.Query()
	if r.service != "" {
		query.Set("service", r.service)
	}
	for _, scope := range r.scopes {
		query.Add("scope", scope)
	}
	if a.credentials.Username != "" {
		query.Set("account", a.credentials.Username)
	}
	if r.offline {
		query.Set("offline_token", "true")
		query.Set("client_id", clientID)
	}
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, err)
	}
	if a.credentials.Username != "" {
		request.SetBasicAuth(a.credentials.Username, a.credentials.Password)
	}
	return a.doToken(request)
}

func (a *authorizer) postToken(ctx context.Context, r tokenRequest, form url.Values) (token, error) {
	form.Set("client_id", clientID)
	form.Set("service", r.service)
	if len(r.scopes) > 0 {
		form.Set("scope", strings.Join(r.scopes, " "))
	}
	if r.offline {
		form.Set("access_type", "offline")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return token{}, errdefs.As(errdefs.ErrInvalidArgument, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := a.doToken(request)
	if err != nil {
		return token{}, err
	}
	defer func() { _ = response.Body.Close() }()
	return a.readToken(response)
}

// doToken does not follow redirects to another host: the credentials are for the one that was checked.
func (a *authorizer) doToken(request *http.Request) (*http.Response, error) {
	client := *a.http
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) >= 10 || !strings.EqualFold(next.URL.Hostname(), via[0].URL.Hostname()) || via[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
			return http.ErrUseLastResponse
		}
		return nil
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch a token: %w", classify(err))
	}
	return response, nil
}

func (a *authorizer) readToken(response *http.Response) (token, error) {
	if response.StatusCode != http.StatusOK {
		if status := response.StatusCode; status == http.StatusUnauthorized && a.credentials == (Credentials{}) {
			return token{}, noCredentials(a.host)
		}
		return token{}, fmt.Errorf("cannot fetch a token: %w", responseError(response))
	}
	var answer struct {
		Token        string  `json:"token"`
		AccessToken  string  `json:"access_token"`
		ExpiresIn    float64 `json:"expires_in"`
		RefreshToken string  `json:"refresh_token"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxTokenAnswer)).Decode(&answer); err != nil {
		return token{}, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot read the token of %s: %w", response.Request.URL.Host, err))
	}
	value := cmp.Or(answer.Token, answer.AccessToken)
	if value == "" {
		return token{}, errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot read the token of %s: there is none in its answer", response.Request.URL.Host))
	}
	lifetime := tokenLifetime
	if answer.ExpiresIn > 0 && answer.ExpiresIn < 1e6 {
		lifetime = time.Duration(answer.ExpiresIn * float64(time.Second))
	}
	return token{value: value, identity: answer.RefreshToken, expires: time.Now().Add(lifetime - min(tokenMargin, lifetime/2))}, nil
}

// checkRealm refuses a token server that the registry must not make this host speak to: one without TLS where the
// registry has it, and one at an address further inside than the registry's, as this host's metadata service.
func checkRealm(ctx context.Context, realm string, registry *url.URL) (*url.URL, error) {
	address, err := url.Parse(realm)
	if err != nil {
		return nil, badRealm(realm, err)
	}
	switch {
	case address.Host == "" || address.User != nil:
		return nil, badRealm(realm, errors.New("want http(s)://host/path"))
	case address.Scheme != "https" && (address.Scheme != "http" || registry.Scheme != "http"):
		return nil, badRealm(realm, errors.New("want https"))
	case strings.EqualFold(address.Hostname(), registry.Hostname()):
		return address, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	_, inner := reach(ctx, address.Hostname())
	if outer, _ := reach(ctx, registry.Hostname()); inner > outer {
		return nil, badRealm(realm, errors.New("its address is further inside than that of the registry"))
	}
	return address, nil
}

func badRealm(realm string, err error) error {
	return errdefs.As(errdefs.ErrFailedPrecondition, fmt.Errorf("cannot use the registry's token server %q: %w", realm, err))
}

// Reaches of addresses, from those that everybody has a way to.
const (
	reachPublic = iota
	reachPrivate
	reachLoopback
	reachLink // as 169.254.169.254, which gives a cloud's credentials to whoever asks
)

// sharedSpace is for networks behind a carrier's NAT (RFC 6598); clouds have services in it.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// reach returns the widest and the narrowest reach of a host's addresses. A name that does not resolve counts as
// public: behind a proxy only the proxy can resolve it.
func reach(ctx context.Context, host string) (widest, narrowest int) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addresses) == 0 {
		return reachPublic, reachPublic
	}
	widest = reachLink
	for _, address := range addresses {
		r := reachOf(address.Unmap())
		widest, narrowest = min(widest, r), max(narrowest, r)
	}
	return widest, narrowest
}

func reachOf(address netip.Addr) int {
	switch {
	case address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast():
		return reachLink
	case address.IsLoopback() || address.IsUnspecified():
		return reachLoopback
	case address.IsPrivate() || sharedSpace.Contains(address):
		return reachPrivate
	}
	return reachPublic
}
