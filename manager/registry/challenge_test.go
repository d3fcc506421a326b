package registry

import (
	"net/http"
	"reflect"
	"testing"
)

func TestChallenges(t *testing.T) {
	bearer := challenge{"bearer", map[string]string{"realm": "https://auth.example/token", "service": "registry"}}
	basic := challenge{"basic", map[string]string{"realm": "Registry Realm"}}
	cases := []struct {
		name    string
		headers []string
		want    []challenge
	}{
		{"none", nil, nil},
		{"empty", []string{"", " , "}, nil},
		{"basic", []string{`Basic realm="Registry Realm"`}, []challenge{basic}},
		{"scheme alone", []string{`Basic`}, []challenge{{"basic", map[string]string{}}}},
		{"bearer", []string{`Bearer realm="https://auth.example/token",service="registry"`}, []challenge{bearer}},
		{"other case", []string{`BEARER Realm="https://auth.example/token", SERVICE="registry"`}, []challenge{bearer}},
		{"without quotes", []string{`Bearer realm=https://auth.example/token,service=registry`}, []challenge{bearer}},
		{"spaces about", []string{"Bearer  realm = \"https://auth.example/token\" ,\tservice = registry "}, []challenge{bearer}},
		{"escapes", []string{`Basic realm="Registry\ Realm"`}, []challenge{basic}},
		{"two in one header", []string{`Basic realm="Registry Realm", Bearer realm="https://auth.example/token",service="registry"`}, []challenge{basic, bearer}},
		{"two headers", []string{`Basic realm="Registry Realm"`, `Bearer realm="https://auth.example/token",service="registry"`}, []challenge{basic, bearer}},
		{"a comma in quotes", []string{`Bearer realm="https://auth.example/token",service="registry",scope="repository:a:pull,push"`}, []challenge{
			{"bearer", map[string]string{"realm": "https://auth.example/token", "service": "registry", "scope": "repository:a:pull,push"}},
		}},
		{"quotes without an end", []string{`Bearer realm="https://auth.example/token`}, []challenge{{"bearer", map[string]string{"realm": "https://auth.example/token"}}}},
		{"an unknown scheme first", []string{`Negotiate, Basic realm="Registry Realm"`}, []challenge{{"negotiate", map[string]string{}}, basic}},
	}
	for _, c := range cases {
		header := http.Header{}
		for _, value := range c.headers {
			header.Add("Www-Authenticate", value)
		}
		if got := challenges(header); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestChallengesOfAHostileHeaderAreBounded(t *testing.T) {
	header := http.Header{}
	for range 1000 {
		header.Add("Www-Authenticate", "Basic, Basic, Basic")
	}
	if got := len(challenges(header)); got > maxChallenges {
		t.Errorf("%d challenges were read", got)
	}
}

func TestChooseTakesBearerFirst(t *testing.T) {
	basic, bearer := challenge{scheme: "basic"}, challenge{"bearer", map[string]string{"realm": "https://a/"}}
	lame := challenge{"bearer", map[string]string{}}
	for _, c := range []struct {
		all  []challenge
		want string
	}{
		{[]challenge{basic, bearer}, "bearer"}, {[]challenge{lame, basic}, "basic"}, {[]challenge{{scheme: "negotiate"}}, ""}, {nil, ""},
	} {
		got, ok := choose(c.all)
		if got.scheme != c.want || ok != (c.want != "") {
			t.Errorf("of %v it chose %q", c.all, got.scheme)
		}
	}
}
