package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/berthd/berth/internal/errdefs"
)

// Decode parses content into the struct that into points to. An error names the field by its path, as in
// `field mounts[2].options: it must be a list of strings, not a number`.
//
// Unknown fields are ignored, as the specification demands, so that documents may be extended and newer ones run on
// older runtimes. As one of them may be a misspelt readonly or noNewPrivileges, the caller gets their paths, to tell of.
func Decode(content []byte, into any) (ignored []string, err error) {
	if decodeFast(content, into) {
		return nil, nil
	}
	reflect.ValueOf(into).Elem().SetZero()
	return decode(content, into)
}

// decode is Decode with encoding/json, for what is unusual.
func decode(content []byte, into any) (ignored []string, err error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(into)
	if err == nil && !bytes.Contains(content, []byte(`\u0000`)) {
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s: there is more behind the JSON object", position(content, decoder.InputOffset())))
		}
		return nil, nil
	}
	// Something is wrong, and only now what costs more is done: finding out where.
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, errdefs.As(errdefs.ErrInvalidArgument, fmt.Errorf("%s: it is not JSON: %w", position(content, syntax.Offset), err))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errdefs.As(errdefs.ErrInvalidArgument, errors.New("it ends in the middle of its JSON"))
	}
	search := search{}
	if found := search.explain("", content, reflect.TypeOf(into).Elem()); found != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, found)
	}
	// The only fault is an unknown field, or an escaped NUL in one.
	if err := json.Unmarshal(content, into); err != nil {
		return nil, errdefs.As(errdefs.ErrInvalidArgument, err)
	}
	return search.ignored, nil
}

func position(content []byte, offset int64) string {
	before := content[:min(int(offset), len(content))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("line %d, column %d", line, max(column, 1))
}

// search looks for the first fault in a document that doesn't fit its type, and on the way for unknown fields.
type search struct{ ignored []string }

func (s *search) explain(path string, content json.RawMessage, want reflect.Type) error {
	for want.Kind() == reflect.Pointer {
		want = want.Elem()
	}
	if string(bytes.TrimSpace(content)) == "null" {
		return nil
	}
	switch want.Kind() {
	case reflect.Struct:
		return s.explainObject(path, content, want)
	case reflect.Map:
		members, err := members(path, content)
		for i := 0; err == nil && i < len(members); i++ {
			err = s.explain(join(path, members[i].name), members[i].content, want.Elem())
		}
		return err
	case reflect.Slice:
		var items []json.RawMessage
		if json.Unmarshal(content, &items) != nil {
			return mismatch(path, content, "a list")
		}
		for i, item := range items {
			if err := s.explain(path+"["+strconv.Itoa(i)+"]", item, want.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return explainValue(path, content, want)
}

func (s *search) explainObject(path string, content json.RawMessage, want reflect.Type) error {
	members, err := members(path, content)
	if err != nil {
		return err
	}
	for _, m := range members {
		inner := join(path, m.name)
		field, known := fieldNamed(want, m.name)
		if !known {
			s.ignored = append(s.ignored, inner)
			continue
		}
		if err := s.explain(inner, m.content, field); err != nil {
			return err
		}
	}
	return nil
}

func explainValue(path string, content json.RawMessage, want reflect.Type) error {
	value := reflect.New(want)
	if json.Unmarshal(content, value.Interface()) != nil {
		return mismatch(path, content, article(want.Kind()))
	}
	if want.Kind() == reflect.String && strings.Contains(value.Elem().String(), "\x00") {
		return fmt.Errorf("field %s: %q has a NUL character", path, value.Elem().String())
	}
	return nil
}

func mismatch(path string, content json.RawMessage, want string) error {
	got := string(content)
	switch got[0] {
	case '{':
		got = "an object"
	case '[':
		got = "a list"
	default:
		if len(got) > 40 {
			got = got[:40] + "…"
		}
	}
	if path == "" {
		return fmt.Errorf("it must be %s, not %s", want, got)
	}
	return fmt.Errorf("field %s: it must be %s, not %s", path, want, got)
}

func article(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Int32:
		return "a whole number of 32 bits"
	case reflect.Uint, reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Uint32:
		return "a whole number from 0 to 4294967295"
	case reflect.Uint16:
		return "a whole number from 0 to 65535"
	default:
		return "a " + kind.String()
	}
}

// member is a name and value of a JSON object, in the document's order.
type member struct {
	name    string
	content json.RawMessage
}

func members(path string, content json.RawMessage) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, mismatch(path, content, "an object")
	}
	var found []member
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		found = append(found, member{name, value})
	}
	return found, nil
}

// fieldNamed finds a field as encoding/json does: by its tag, regardless of case.
func fieldNamed(in reflect.Type, name string) (reflect.Type, bool) {
	for i := range in.NumField() {
		field := in.Field(i)
		if field.Anonymous {
			if inner, ok := fieldNamed(field.Type, name); ok {
				return inner, true
			}
			continue
		}
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if strings.EqualFold(tag, name) {
			return field.Type, true
		}
	}
	return nil, false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
