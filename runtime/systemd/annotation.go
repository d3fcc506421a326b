package systemd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
)

// prefix begins the annotations that stand for properties of the container's unit.
const prefix = "org.systemd.property."

// ParseAnnotations returns the properties that annotations ask for, as "org.systemd.property.TimeoutStopSec": "5". Their
// values are GVariants in text.
func ParseAnnotations(annotations map[string]string) ([]Property, error) {
	var list []Property
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		p, err := parseProperty(name, annotations[key])
		if err != nil {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("annotation %q: %w", key, err))
		}
		list = append(list, p)
	}
	return list, nil
}

func parseProperty(name, text string) (Property, error) {
	if len(name) < 3 || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return Property{}, errors.New("it does not end with the name of a property")
	}
	// Files of units have seconds where the bus has microseconds.
	if base, ok := strings.CutSuffix(name, "Sec"); ok && base[len(base)-1] >= 'a' {
		_, number := splitType(text)
		seconds, err := strconv.ParseFloat(number, 64)
		if err != nil || seconds < 0 {
			return Property{}, fmt.Errorf("%q is not a number of seconds", text)
		}
		return Property{base + "USec", uint64(seconds * 1e6)}, nil
	}
	value, err := parseVariant(strings.TrimSpace(text))
	return Property{name, value}, err
}

// splitType takes the type off that may be in front of a number.
func splitType(text string) (kind, number string) {
	text = strings.TrimSpace(text)
	if kind, number, ok := strings.Cut(text, " "); ok {
		return kind, strings.TrimSpace(number)
	}
	return "", text
}

func parseVariant(text string) (any, error) {
	switch {
	case text == "true", text == "false":
		return text == "true", nil
	case strings.HasPrefix(text, "'"), strings.HasPrefix(text, `"`):
		s, rest, err := cutString(text)
		if err == nil && rest != "" {
			err = fmt.Errorf("%q follows the string", rest)
		}
		return s, err
	case strings.HasPrefix(text, "["):
		return parseStrings(text[1:])
	}
	kind, number := splitType(text)
	var value any
	var err error
	switch kind {
	case "", "int32":
		var n int64
		n, err = strconv.ParseInt(number, 0, 32)
		value = int32(n)
	case "uint32":
		var n uint64
		n, err = strconv.ParseUint(number, 0, 32)
		value = uint32(n)
	case "int64":
		value, err = strconv.ParseInt(number, 0, 64)
	case "uint64":
		value, err = strconv.ParseUint(number, 0, 64)
	default:
		err = errors.New("unknown type")
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a value such as true, 5, uint64 5, 'text' or ['one', 'two']", text)
	}
	return value, nil
}

// parseStrings reads a list of strings behind its bracket.
func parseStrings(text string) ([]string, error) {
	list := []string{}
	for rest := strings.TrimSpace(text); rest != "]"; {
		s, behind, err := cutString(rest)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		if next, ok := strings.CutPrefix(behind, ","); ok {
			rest = strings.TrimSpace(next)
		} else if rest = behind; rest != "]" {
			return nil, fmt.Errorf("a list of strings has %q in place of a comma or ]", rest)
		}
	}
	return list, nil
}

// cutString takes a quoted string off the front.
func cutString(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == text[0]:
			return b.String(), strings.TrimSpace(text[i+1:]), nil
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return "", "", fmt.Errorf("%q is not a string that ends", text)
}
