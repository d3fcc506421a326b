package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/internal/errdefs"
)

const (
	user, password = "tester", "secret"
	manifestText   = `{"schemaVersion":2}`
)

// guarded is a registry, with the token server beside it, that lets nobody read its one manifest without credentials.
type guarded struct {
	*httptest.Server
	tokens *httptest.Server

	mu sync.Mutex
	// challenge makes the headers of a 401.
	challenge func(g *guarded) []string
	// token answers a request for a token, after it was checked; nil: as the specification says.
	token func(w http.ResponseWriter, value string)
	// onlyPost makes the token server know no GET.
	onlyPost bool
	// uses is how often a token is good for a request. 0: always.
	uses    int
	valid   map[string]int
	fetched []url.Values
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{valid: map[string]int{}}
	g.challenge = func(g *guarded) []string {
		return []string{fmt.Sprintf(`Bearer realm=%q,service="test"`, g.tokens.URL+"/token")}
	}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	g.tokens = httptest.NewServer(http.HandlerFunc(g.serveToken))
	t.Cleanup(g.Close)
	t.Cleanup(g.tokens.Close)
	return g
}

func (g *guarded) host() string { return strings.TrimPrefix(g.URL, "http://") }

func (g *guarded) serve(w http.ResponseWriter, request *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name, given, isBasic := request.BasicAuth()
	allowed := isBasic && name == user && given == password
	if value, isBearer := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer "); isBearer {
		count, known := g.valid[value]
		allowed = known && (g.uses == 0 || count < g.uses)
		g.valid[value]++
		if !known {
			delete(g.valid, value)
		}
	}
	if !allowed {
		for _, c := range g.challenge(g) {
			w.Header().Add("WWW-Authenticate", c)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	_, _ = io.WriteString(w, manifestText)
}

func (g *guarded) serveToken(w http.ResponseWriter, request *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := request.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if request.Method == http.MethodGet && g.onlyPost {
		http.Error(w, "no", http.StatusMethodNotAllowed)
		return
	}
	name, given, _ := request.BasicAuth()
	if request.Method == http.MethodPost {
		name, given = request.Form.Get("username"), request.Form.Get("password")
		if request.Form.Get("grant_type") == "refresh_token" && request.Form.Get("refresh_token") == "refresh" {
			name, given = user, password
		}
	}
	if name != user || given != password {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	g.fetched = append(g.fetched, request.Form)
	value := fmt.Sprintf("token-%d", len(g.fetched))
	g.valid[value] = 0
	if g.token != nil {
		g.token(w, value)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": value, "expires_in": 300, "refresh_token": "refresh"})
}

func (g *guarded) open(t *testing.T, credentials Credentials) *Repository {
	t.Helper()
	name, err := reference.ParseNormalizedNamed(g.host() + "/app")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := NewClient().Open(name, Options{Credentials: credentials})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

var known = Credentials{Username: user, Password: password}

func TestEachChallengeIsAnswered(t *testing.T) {
	cases := []struct {
		name        string
		credentials Credentials
		change      func(*guarded)
	}{
		{"basic", known, func(g *guarded) { g.challenge = func(*guarded) []string { return []string{`Basic realm="x"`} } }},
		{"basic in capitals, without a realm", known, func(g *guarded) { g.challenge = func(*guarded) []string { return []string{"BASIC"} } }},
		{"bearer", known, nil},
		{"bearer without service", known, func(g *guarded) {
			g.challenge = func(g *guarded) []string { return []string{"bearer realm=" + g.tokens.URL} }
		}},
		{"bearer with a scope", known, func(g *guarded) {
			g.challenge = func(g *guarded) []string {
				return []string{fmt.Sprintf(`Bearer realm=%q,scope="repository:app:pull,push other:thing:*"`, g.tokens.URL)}
			}
		}},
		{"one it can't, then bearer, in a header", known, func(g *guarded) {
			g.challenge = func(g *guarded) []string { return []string{`Negotiate, Bearer realm="` + g.tokens.URL + `"`} }
		}},
		{"basic and bearer in two headers", known, func(g *guarded) {
			g.challenge = func(g *guarded) []string { return []string{`Basic realm="x"`, `Bearer realm="` + g.tokens.URL + `"`} }
		}},
		{"bearer without a token server, then basic", known, func(g *guarded) {
			g.challenge = func(*guarded) []string { return []string{`Bearer`, `Basic realm="x"`} }
		}},
		{"token server by POST only", known, func(g *guarded) { g.onlyPost = true }},
		{"access_token", known, func(g *guarded) {
			g.token = func(w http.ResponseWriter, value string) { _, _ = fmt.Fprintf(w, `{"access_token":%q}`, value) }
		}},
		{"identity token", Credentials{IdentityToken: "refresh"}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := newGuarded(t)
			if c.change != nil {
				c.change(g)
			}
			repo := g.open(t, c.credentials)
			for range 3 {
				manifest, err := repo.Resolve(t.Context(), "latest")
				if err != nil {
					t.Fatal(err)
				}
				if string(manifest.Content) != manifestText {
					t.Errorf("got %q", manifest.Content)
				}
			}
			if len(g.fetched) > 1 {
				t.Errorf("%d tokens were fetched for the same scope", len(g.fetched))
			}
			if _, err := NewClient().Login(t.Context(), g.host(), Options{Credentials: c.credentials}); err != nil {
				t.Errorf("cannot log in: %v", err)
			}
		})
	}
}

func TestTokenHasTheScopesAskedFor(t *testing.T) {
	g := newGuarded(t)
	g.challenge = func(g *guarded) []string {
		return []string{`Bearer realm="` + g.tokens.URL + `?x=y",scope="other:thing:*"`}
	}
	if _, err := g.open(t, known).Resolve(t.Context(), "latest"); err != nil {
		t.Fatal(err)
	}
	form := g.fetched[0]
	if got := strings.Join(form["scope"], " "); !strings.Contains(got, "repository:app:pull") || !strings.Contains(got, "other:thing:*") || form.Get("x") != "y" {
		t.Errorf("asked for %v", form)
	}
}

func TestTokenThatExpiresIsFetchedAgain(t *testing.T) {
	g := newGuarded(t)
	g.uses = 2
	repo := g.open(t, known)
	for range 7 {
		if _, err := repo.Resolve(t.Context(), "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.fetched) != 4 {
		t.Errorf("%d tokens were fetched, each good for two of seven requests", len(g.fetched))
	}
}

func TestRequestsAtOnceFetchOneToken(t *testing.T) {
	g := newGuarded(t)
	repo := g.open(t, known)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := repo.Resolve(t.Context(), "latest"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(g.fetched) != 1 {
		t.Errorf("%d tokens were fetched", len(g.fetched))
	}
}

func TestWrongCredentialsAreRefusedOnce(t *testing.T) {
	for name, challenge := range map[string]string{"basic": `Basic realm="x"`, "bearer": ""} {
		g := newGuarded(t)
		if challenge != "" {
			g.challenge = func(*guarded) []string { return []string{challenge} }
		}
		for _, wrong := range []Credentials{{}, {Username: user, Password: "wrong"}, {IdentityToken: "wrong"}, {RegistryToken: "wrong"}} {
			_, err := g.open(t, wrong).Resolve(t.Context(), "latest")
			if !errors.Is(err, errdefs.ErrUnauthenticated) || strings.Contains(err.Error(), "wrong") {
				t.Errorf("%s with %+v: got %v", name, wrong, err)
			}
			if wrong == (Credentials{}) && !strings.Contains(err.Error(), "berth login "+g.host()) {
				t.Errorf("%s: %q does not say how to log in", name, err)
			}
		}
		if _, err := NewClient().Login(t.Context(), g.host(), Options{Credentials: Credentials{Username: user, Password: "wrong"}}); !errors.Is(err, errdefs.ErrUnauthenticated) {
			t.Errorf("%s: login got %v", name, err)
		}
	}
}

func TestLoginKeepsAnIdentityToken(t *testing.T) {
	g := newGuarded(t)
	identity, err := NewClient().Login(t.Context(), g.host(), Options{Credentials: known})
	if err != nil || identity != "refresh" {
		t.Fatalf("got %q, %v", identity, err)
	}
	if g.fetched[0].Get("offline_token") != "true" {
		t.Errorf("asked for %v", g.fetched[0])
	}
}

func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	got := make(chan string, 2)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		got <- request.Header.Get("Authorization")
		w.Header().Set("WWW-Authenticate", `Basic realm="mine"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer other.Close()
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if _, _, ok := request.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, request, other.URL+"/stolen", http.StatusTemporaryRedirect)
	}))
	defer registry.Close()
	g := &guarded{Server: registry}
	if _, err := g.open(t, known).Resolve(t.Context(), "latest"); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("got %v", err)
	}
	close(got)
	for authorization := range got {
		if authorization != "" {
			t.Errorf("another server was sent %q", authorization)
		}
	}
}

func TestCheckRealm(t *testing.T) {
	for _, c := range []struct {
		registry, realm string
		ok              bool
	}{
		{"https://1.1.1.1", "https://8.8.8.8/token", true},
		{"https://1.1.1.1", "http://8.8.8.8/token", false},
		{"https://1.1.1.1", "http://1.1.1.1/token", false},
		{"http://10.0.0.1:5000", "http://10.0.0.2/token", true},
		{"https://10.0.0.1", "https://8.8.8.8/token", true},
		{"https://1.1.1.1", "https://10.0.0.2/token", false},
		{"https://1.1.1.1", "https://127.0.0.1/token", false},
		{"https://10.0.0.1", "https://127.0.0.1/token", false},
		{"https://10.0.0.1", "https://169.254.169.254/token", false},
		{"http://127.0.0.1:5000", "http://localhost:5001/token", true},
		{"http://127.0.0.1:5000", "http://169.254.169.254/token", false},
		{"https://1.1.1.1", "https://[::ffff:127.0.0.1]/token", false},
		{"https://1.1.1.1", "file:///etc/passwd", false},
		{"https://1.1.1.1", "https://user@8.8.8.8/token", false},
		{"https://1.1.1.1", "/token", false},
	} {
		registry, err := url.Parse(c.registry)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkRealm(context.Background(), c.realm, registry); (err == nil) != c.ok {
			t.Errorf("%s at %s: got %v", c.realm, c.registry, err)
		}
	}
}

func TestPushWithAToken(t *testing.T) {
	content := []byte(manifestText)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(content), Size: int64(len(content))}
	g := newGuarded(t)
	inner := g.Config.Handler
	var sent []byte
	g.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		recorder := httptest.NewRecorder()
		inner.ServeHTTP(recorder, request)
		if recorder.Code == http.StatusOK && request.Method == http.MethodPut {
			sent = body
			w.WriteHeader(http.StatusCreated)
			return
		}
		for key, values := range recorder.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(recorder.Code)
	})
	if err := g.open(t, known).PushManifest(t.Context(), desc, content, "latest"); err != nil {
		t.Fatal(err)
	}
	if string(sent) != manifestText {
		t.Errorf("the registry got %q after it asked for a token", sent)
	}
	if got := g.fetched[0].Get("scope"); got != "repository:app:pull,push" {
		t.Errorf("asked for the scope %q", got)
	}
}
