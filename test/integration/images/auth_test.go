package images_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	berthv1 "github.com/berthd/berth/proto/berth/v1"
	"github.com/berthd/berth/test/testenv"
)

// tokenServer gives "tester" with the password "secret" tokens that a docker-registry accepts, by the specification of
// the distribution project.
type tokenServer struct {
	*httptest.Server
	t           testing.TB
	key         *ecdsa.PrivateKey
	certificate []byte

	mu       sync.Mutex
	lifetime time.Duration
	requests []*http.Request
}

const refreshToken = "a-refresh-token"

func newTokenServer(t testing.TB) *tokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tokens"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{t: t, key: key, certificate: certificate, lifetime: time.Hour}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// registry starts a docker-registry that asks for tokens of s.
func (s *tokenServer) registry() string {
	s.t.Helper()
	bundle := filepath.Join(testenv.ShortDir(s.t), "bundle.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate})
	if err := os.WriteFile(bundle, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return testenv.Registry(s.t, fmt.Sprintf("auth: {token: {realm: %q, service: test, issuer: tokens, rootcertbundle: %q}}", s.URL+"/token", bundle))
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = request.ParseForm()
	s.requests = append(s.requests, request)
	user, password, _ := request.BasicAuth()
	known := user == "tester" && password == "secret"
	if request.Method == http.MethodPost && request.Form.Get("grant_type") == "refresh_token" {
		known = request.Form.Get("refresh_token") == refreshToken
	}
	if !known {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	answer := map[string]any{"expires_in": s.lifetime.Seconds()}
	name := "token"
	if request.Method == http.MethodPost {
		name = "access_token"
	}
	answer[name] = s.sign(strings.Fields(strings.Join(request.Form["scope"], " ")))
	if request.Form.Get("offline_token") == "true" {
		answer["refresh_token"] = refreshToken
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// sign makes a JSON web token that gives access to scopes.
func (s *tokenServer) sign(scopes []string) string {
	access := []map[string]any{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		access = append(access, map[string]any{"type": parts[0], "name": strings.Join(parts[1:len(parts)-1], ":"), "actions": strings.Split(parts[len(parts)-1], ",")})
	}
	now := time.Now().Unix()
	text := s.part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.certificate)}}) + "." +
		s.part(map[string]any{
			"iss": "tokens", "sub": "tester", "aud": "test", "exp": now + int64(s.lifetime.Seconds()), "nbf": now - 60, "iat": now, "jti": rand.Text(), "access": access,
		})
	hash := sha256.Sum256([]byte(text))
	r, sum, err := ecdsa.Sign(rand.Reader, s.key, hash[:])
	if err != nil {
		s.t.Error(err)
		return ""
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	sum.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (s *tokenServer) part(value any) string {
	raw, err := json.Marshal(value)
	if err != nil {
		s.t.Error(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func (h *host) pushAs(reference string, auth *berthv1.RegistryAuth) error {
	h.t.Helper()
	stream, err := h.images.PushImage(h.t.Context(), &berthv1.PushImageRequest{Reference: reference, Auth: auth})
	for err == nil {
		var message *berthv1.PushImageResponse
		if message, err = stream.Recv(); err == nil && message.GetResult() != nil {
			return nil
		}
	}
	return err
}

func (h *host) checkAuth(registry string, auth *berthv1.RegistryAuth) (string, error) {
	h.t.Helper()
	response, err := berthv1.NewSystemServiceClient(h.Dial()).CheckAuth(h.t.Context(), &berthv1.CheckAuthRequest{Registry: registry, Auth: auth})
	return response.GetIdentityToken(), err
}

func TestPrivateRegistries(t *testing.T) {
	h, open := newHost(t), newRegistry(t)
	tokens := newTokenServer(t)
	open.push("app", "latest", nil, gzipped(t, archive(t, file("a", noise(3<<20)))), gzipped(t, archive(t, file("b", noise(1<<20)))))
	h.mustPull(open.host + "/app")
	known := &berthv1.RegistryAuth{Username: "tester", Password: "secret"}
	for name, registry := range map[string]string{"passwords": testenv.PrivateRegistry(t), "tokens": tokens.registry()} {
		t.Run(name, func(t *testing.T) {
			reference := registry + "/team/app:v1"
			if err := h.tag(open.host+"/app", reference); err != nil {
				t.Fatal(err)
			}
			for _, wrong := range []*berthv1.RegistryAuth{nil, {Username: "tester", Password: "wrong"}, {IdentityToken: "wrong"}} {
				wantCode(t, h.pushAs(reference, wrong), codes.Unauthenticated)
				_, err := h.pull(&berthv1.PullImageRequest{Reference: reference, Auth: wrong})
				wantCode(t, err, codes.Unauthenticated)
				_, err = h.checkAuth(registry, wrong)
				wantCode(t, err, codes.Unauthenticated, "cannot log in to "+registry)
			}
			if err := h.pushAs(reference, known); err != nil {
				t.Fatal(err)
			}
			identity, err := h.checkAuth(registry, known)
			if err != nil {
				t.Fatal(err)
			}
			auth := known
			if name == "tokens" {
				if identity != refreshToken {
					t.Fatalf("the identity token is %q", identity)
				}
				auth = &berthv1.RegistryAuth{IdentityToken: identity}
			}
			if _, err := h.remove(reference, false); err != nil {
				t.Fatal(err)
			}
			if _, err := h.pull(&berthv1.PullImageRequest{Reference: reference, Auth: auth}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTokenExpiresDuringAPull has a proxy that cuts a layer off and from then on answers as a registry does whose token
// has expired meanwhile.
func TestTokenExpiresDuringAPull(t *testing.T) {
	h, open := newHost(t), newRegistry(t)
	tokens := newTokenServer(t)
	private := tokens.registry()
	made := open.push("app", "latest", nil, gzipped(t, archive(t, file("a", noise(3<<20)))))
	h.mustPull(open.host + "/app")
	known := &berthv1.RegistryAuth{Username: "tester", Password: "secret"}
	if err := h.tag(open.host+"/app", private+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if err := h.pushAs(private+"/app:v1", known); err != nil {
		t.Fatal(err)
	}
	if _, err := h.remove(made.config.Digest.String(), true); err != nil {
		t.Fatal(err)
	}
	x := newProxy(t, registry{t: t, host: private})
	var mu sync.Mutex
	expired := ""
	x.do(func(response *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		authorization := response.Request.Header.Get("Authorization")
		switch {
		case expired != "" && authorization == expired:
			_ = response.Body.Close()
			response.StatusCode, response.Body, response.ContentLength = http.StatusUnauthorized, http.NoBody, 0
			response.Header = http.Header{"Www-Authenticate": {fmt.Sprintf(`Bearer realm=%q,service="test",error="invalid_token"`, tokens.URL+"/token")}}
			return nil
		case expired == "" && response.StatusCode == http.StatusOK && strings.HasSuffix(response.Request.URL.Path, made.layers[0].digest()):
			expired = authorization
			return cut(made.layers[0].digest(), 1<<20)(response)
		}
		return nil
	})
	if _, err := h.pull(&berthv1.PullImageRequest{Reference: x.host + "/app:v1", Auth: known}); err != nil {
		t.Fatal(err)
	}
	if expired == "" {
		t.Error("no token has expired")
	}
}
