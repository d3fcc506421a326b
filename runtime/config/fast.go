package config

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encoding/json builds tables of all types and their encoders before it reads the first byte, which takes longer than
// all else that is done with a configuration. This decoder looks at a type when a value of it comes along. It takes only
// what fits, and gives up on the rest: odd spellings, and mistakes, for which it has no words.
type fast struct {
	data   []byte
	at     int
	fields map[reflect.Type][]field
}

// field is what a member of an object is decoded to.
type field struct {
	name  string
	index []int
}

// decodeFast decodes content into the struct that into points to, and returns false if that has to be left to
// encoding/json. Then *into may be half filled.
func decodeFast(content []byte, into any) bool {
	f := &fast{data: content, fields: map[reflect.Type][]field{}}
	if !utf8.Valid(content) || !f.value(reflect.ValueOf(into).Elem()) {
		return false
	}
	f.space()
	return f.at == len(f.data)
}

// space skips white space and returns the byte behind it, or 0 at the end.
func (f *fast) space() byte {
	for ; f.at < len(f.data); f.at++ {
		switch c := f.data[f.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// accept skips white space and then c, if it comes.
func (f *fast) accept(c byte) bool {
	if f.space() != c || f.at == len(f.data) {
		return false
	}
	f.at++
	return true
}

func (f *fast) word(word string) bool {
	if len(f.data)-f.at < len(word) || string(f.data[f.at:f.at+len(word)]) != word {
		return false
	}
	f.at += len(word)
	return true
}

func (f *fast) value(v reflect.Value) bool {
	if f.space() == 'n' {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			v.SetZero()
		}
		return f.word("null")
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return f.value(v.Elem())
	case reflect.Struct:
		return f.object(v)
	case reflect.Slice:
		return f.list(v)
	case reflect.Map:
		return f.table(v)
	case reflect.String:
		text, ok := f.text()
		v.SetString(text)
		return ok
	case reflect.Bool:
		v.SetBool(f.space() == 't')
		return f.word("true") || f.word("false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number, err := strconv.ParseInt(f.number(), 10, v.Type().Bits())
		v.SetInt(number)
		return err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number, err := strconv.ParseUint(f.number(), 10, v.Type().Bits())
		v.SetUint(number)
		return err == nil
	}
	return false
}

// number returns a number without fraction and exponent, or nothing.
func (f *fast) number() string {
	start := f.at
	for f.at < len(f.data) && (f.data[f.at] >= '0' && f.data[f.at] <= '9' || f.data[f.at] == '-') {
		f.at++
	}
	text := string(f.data[start:f.at])
	if digits := strings.TrimPrefix(text, "-"); len(digits) > 1 && digits[0] == '0' {
		return "" // JSON has no leading zeros
	}
	return text
}

func (f *fast) object(v reflect.Value) bool {
	t := v.Type()
	if reflect.PointerTo(t).NumMethod() > 0 && t.NumField() > 0 && t.Field(0).PkgPath != "" {
		return false // a type with a form of its own, such as time.Time
	}
	fields, known := f.fields[t]
	if !known {
		fields = collect(t, nil, nil)
		f.fields[t] = fields
	}
	var seen uint64
	return f.members(func(name string) bool {
		for i := range fields {
			if fields[i].name != name {
				continue
			}
			if i > 63 || seen&(1<<i) != 0 {
				return false // given twice
			}
			seen |= 1 << i
			return f.value(v.FieldByIndex(fields[i].index))
		}
		return false
	})
}

// collect lists the fields of a struct, with those of structs embedded in it.
func collect(t reflect.Type, index []int, fields []field) []field {
	for i := range t.NumField() {
		member := t.Field(i)
		at := append(append([]int{}, index...), i)
		if member.Anonymous && member.Type.Kind() == reflect.Struct {
			fields = collect(member.Type, at, fields)
			continue
		}
		if name, _, _ := strings.Cut(member.Tag.Get("json"), ","); name != "" && name != "-" && member.IsExported() {
			fields = append(fields, field{name, at})
		}
	}
	return fields
}

// members calls decode for each member of an object, with its name, when its value comes.
func (f *fast) members(decode func(name string) bool) bool {
	if !f.accept('{') {
		return false
	}
	if f.accept('}') {
		return true
	}
	for {
		f.space()
		name, ok := f.text()
		if !ok || !f.accept(':') || !decode(name) {
			return false
		}
		if f.accept('}') {
			return true
		}
		if !f.accept(',') {
			return false
		}
	}
}

func (f *fast) list(v reflect.Value) bool {
	if !f.accept('[') {
		return false
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	if f.accept(']') {
		return true
	}
	texts, _ := v.Addr().Interface().(*[]string)
	for n := 0; ; n++ {
		if texts != nil && f.space() == '"' { // most lists are of strings
			text, ok := f.text()
			if !ok {
				return false
			}
			*texts = append(*texts, text)
		} else {
			v.Grow(1)
			v.SetLen(n + 1)
			if !f.value(v.Index(n)) {
				return false
			}
		}
		if f.accept(']') {
			return true
		}
		if !f.accept(',') {
			return false
		}
	}
}

func (f *fast) table(v reflect.Value) bool {
	if v.Type().Key().Kind() != reflect.String {
		return false
	}
	v.Set(reflect.MakeMap(v.Type()))
	return f.members(func(name string) bool {
		element := reflect.New(v.Type().Elem()).Elem()
		if !f.value(element) {
			return false
		}
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), element)
		return true
	})
}

// text reads a string. Halves of surrogate pairs and NUL are left to others.
func (f *fast) text() (string, bool) {
	if f.at == len(f.data) || f.data[f.at] != '"' {
		return "", false
	}
	f.at++
	start := f.at
	for ; f.at < len(f.data); f.at++ {
		switch c := f.data[f.at]; {
		case c == '"':
			f.at++
			return string(f.data[start : f.at-1]), true
		case c == '\\':
			return f.escaped(start)
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func (f *fast) escaped(start int) (string, bool) {
	text := append([]byte(nil), f.data[start:f.at]...)
	for f.at < len(f.data) {
		c := f.data[f.at]
		f.at++
		switch {
		case c == '"':
			return string(text), true
		case c < ' ' || c == '\\' && f.at == len(f.data):
			return "", false
		case c != '\\':
			text = append(text, c)
			continue
		}
		c = f.data[f.at]
		f.at++
		if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
			text = append(text, "\"\\/\b\f\n\r\t"[i])
			continue
		}
		if c != 'u' || len(f.data)-f.at < 4 {
			return "", false
		}
		code, err := strconv.ParseUint(string(f.data[f.at:f.at+4]), 16, 16)
		if err != nil || code == 0 || !utf8.ValidRune(rune(code)) {
			return "", false
		}
		text = utf8.AppendRune(text, rune(code))
		f.at += 4
	}
	return "", false
}
