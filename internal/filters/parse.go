package filters

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// parser walks over the text of one filter.
type parser struct {
	rest string
}

func parse(text string) (all, error) {
	p := parser{rest: text}
	var conditions all
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

func (p *parser) condition() (c condition, err error) {
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
	for _, operator := range []string{"==", "!=", "~="} {
		if !p.skip(operator) {
			continue
		}
		if c.absent {
			return c, errors.New("a condition with ! takes no operator")
		}
		operand, err := p.value(operator == "~=")
		if err != nil {
			return c, err
		}
		c.compare, err = comparison(operator, operand)
		return c, err
	}
	return c, nil
}

func (p *parser) name() (string, error) {
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

// value reads an operand. A word ends at a comma; whatever else it has in it is taken as it is.
func (p *parser) value(expression bool) (string, error) {
	switch {
	case strings.HasPrefix(p.rest, `"`):
		return p.quoted()
	case expression && p.rest != "" && strings.ContainsRune("/|", rune(p.rest[0])):
		return p.delimited(p.rest[0])
	}
	word, _, _ := strings.Cut(p.rest, ",")
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

// delimited reads up to the next delimiter that has no backslash before it. Other backslashes belong to the regular
// expression.
func (p *parser) delimited(delimiter byte) (string, error) {
	var text strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '\\' && i+1 < len(p.rest) && p.rest[i+1] == delimiter:
			i++
			text.WriteByte(delimiter)
		case c == '\\' && i+1 < len(p.rest):
			text.WriteByte(c)
			i++
			text.WriteByte(p.rest[i])
		case c == delimiter:
			p.rest = p.rest[i+1:]
			return text.String(), nil
		default:
			text.WriteByte(c)
		}
	}
	return "", fmt.Errorf("an expression between %q does not end", delimiter)
}
