package registry

import (
	"net/http"
	"strings"
)

// challenge is one way of authentication that a server offers in a WWW-Authenticate header (RFC 9110, section 11.3).
type challenge struct {
	// scheme and the keys of parameters are in lower case.
	scheme     string
	parameters map[string]string
}

// maxChallenges bounds how many challenges of one response are read.
const maxChallenges = 16

// challenges returns what a response offers. A server may send several headers, and several challenges in one of them.
func challenges(header http.Header) []challenge {
	var all []challenge
	for _, text := range header.Values("WWW-Authenticate") {
		p := challengeParser{rest: text}
		for len(all) < maxChallenges {
			c, ok := p.next()
			if !ok {
				break
			}
			all = append(all, c)
		}
	}
	return all
}

// challengeParser reads the challenges of one header. It takes what registries really send: unquoted values with any
// character but a comma or a space, quotes that do not end, and keys and schemes in any case.
type challengeParser struct {
	rest string
}

func (p *challengeParser) next() (challenge, bool) {
	p.skip(" \t,")
	scheme := p.until(" \t,")
	if scheme == "" {
		return challenge{}, false
	}
	c := challenge{scheme: strings.ToLower(scheme), parameters: map[string]string{}}
	for {
		p.skip(" \t,")
		before := p.rest
		key := strings.ToLower(p.until(" \t,="))
		p.skip(" \t")
		if !strings.HasPrefix(p.rest, "=") || key == "" {
			p.rest = before // the scheme of the next challenge, or the end
			return c, true
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		c.parameters[key] = p.value()
	}
}

func (p *challengeParser) value() string {
	if !strings.HasPrefix(p.rest, `"`) {
		return p.until(" \t,")
	}
	var value strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return value.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			value.WriteByte(p.rest[i])
		default:
			value.WriteByte(c)
		}
	}
	p.rest = ""
	return value.String()
}

func (p *challengeParser) skip(chars string) { p.rest = strings.TrimLeft(p.rest, chars) }

func (p *challengeParser) until(chars string) string {
	end := strings.IndexAny(p.rest, chars)
	if end < 0 {
		end = len(p.rest)
	}
	found := p.rest[:end]
	p.rest = p.rest[end:]
	return found
}

// choose returns the challenge to answer: Bearer, which names a token server, before Basic, which sends the password
// to the registry itself.
func choose(all []challenge) (challenge, bool) {
	for _, c := range all {
		if c.scheme == "bearer" && c.parameters["realm"] != "" {
			return c, true
		}
	}
	for _, c := range all {
		if c.scheme == "basic" {
			return c, true
		}
	}
	return challenge{}, false
}
