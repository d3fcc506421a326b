package filters

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parser walks over the text of one filter.
type parser struct {
	rest string
}

func parse(text string) (all, error) {
	p := parser{rest: text}
	var conditions all
	if text == "" {
		return conditions, nil
	}
	for {
		c, err := p.condition()
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", len(text)-len(p.rest), err)
		}
		conditions = append(conditions, c)
		if p.rest == "" {
			return conditions, nil
		}
		if !p.skip(",") {
			return nil, fmt.Errorf("at byte %d: expected a comma or the end", len(text)-len(p.rest))
		}
	}
}

func (p *parser) skip(prefix string) bool {
	rest, found := strings.CutPrefix(p.rest, prefix)
	p.rest = rest
	return found
}

func (p *parser) skipBlanks() { p.rest = strings.TrimLeftFunc(p.rest, unicode.IsSpace) }

func (p *parser) condition() (c condition, err error) {
	p.skipBlanks()
	for _, operator := range []string{"==", "!=", "~="} {
		if strings.HasPrefix(p.rest, operator) {
			return c, errors.New("expected the name of a field")
		}
	}
	c.absent = p.skip("!")
	for {
		name, err := p.name()
		if err != nil {
			return c, err
		}
		c.path = append(c.path, name)
		if !p.skip(".") {
			break
		}
	}
	if c.absent || p.rest == "" || p.rest[0] == ',' {
		return c, nil
	}
	p.skipBlanks()
	for _, operator := range []string{"==", "!=", "~="} {
		if !p.skip(operator) {
			continue
		}
		operand, err := p.value(operator == "~=")
		if err != nil {
			return c, err
		}
		c.compare, err = comparison(operator, operand)
		return c, err
	}
	return c, errors.New("expected an operator, a comma or the end")
}

func (p *parser) name() (string, error) {
	p.skipBlanks()
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	end := strings.IndexFunc(p.rest, func(r rune) bool {
		return r != '_' && r != '-' && r != '/' && !alphanumeric(r)
	})
	if end < 0 {
		end = len(p.rest)
	}
	if end == 0 {
		return "", errors.New("expected the name of a field")
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name, nil
}

func alphanumeric(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// value reads an operand. A word ends at a comma or a blank; whatever else it has in it is taken as it is.
func (p *parser) value(expression bool) (string, error) {
	p.skipBlanks()
	switch {
	case strings.HasPrefix(p.rest, `"`):
		return p.quoted()
	case expression && p.rest != "" && strings.ContainsRune("/|", rune(p.rest[0])):
		return p.delimited(p.rest[0])
	}
	word := p.rest
	if end := strings.IndexFunc(word, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }); end >= 0 {
		word = word[:end]
	}
	if word == "" {
		return "", errors.New("expected a value")
	}
	p.rest = p.rest[len(word):]
	return word, nil
}

func (p *parser) quoted() (string, error) {
	prefix, err := strconv.QuotedPrefix(p.rest)
	if err != nil {
		return "", errors.New("a quoted string does not end, or has a bad escape")
	}
	p.rest = p.rest[len(prefix):]
	return strconv.Unquote(prefix)
}

// delimited reads up to the next delimiter that has no backslash before it. Escapes are those of a Go string; others
// belong to the regular expression.
func (p *parser) delimited(delimiter byte) (string, error) {
	var text strings.Builder
	for rest := p.rest[1:]; rest != ""; {
		switch {
		case rest[0] == delimiter:
			p.rest = rest[1:]
			return text.String(), nil
		case rest[0] == '\\' && len(rest) > 1 && rest[1] == delimiter:
			text.WriteByte(delimiter)
			rest = rest[2:]
		case rest[0] == '\\':
			rest = unescape(&text, rest)
		default:
			text.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	return "", fmt.Errorf("an expression between %q does not end", delimiter)
}

// unescape takes an escape off rest.
func unescape(text *strings.Builder, rest string) string {
	char, multibyte, tail, err := strconv.UnquoteChar(rest, 0)
	switch {
	case err != nil && len(rest) > 1:
		text.WriteString(rest[:2])
		return rest[2:]
	case err != nil:
		text.WriteString(rest)
		return ""
	case char < utf8.RuneSelf || !multibyte:
		text.WriteByte(byte(char))
	default:
		text.WriteRune(char)
	}
	return tail
}
