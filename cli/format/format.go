// Package format prints objects as the user asked with --format: a table, JSON, or a Go template, as docker does.
package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// List prints rows. Format is "table" with a template of columns separated by tabs, "json" for an object a line, or a
// template that is applied to each row. Header is a row with the titles of the columns.
func List[T any](w io.Writer, format string, header T, rows []T) error {
	if format == "json" {
		for _, row := range rows {
			if err := writeJSON(w, row, ""); err != nil {
				return err
			}
		}
		return nil
	}
	body, isTable := strings.CutPrefix(format, "table")
	tmpl, err := parse(strings.TrimLeft(body, " "))
	if err != nil {
		return err
	}
	if !isTable {
		return writeRows(w, format, tmpl, rows)
	}
	table := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	return errors.Join(writeRows(table, format, tmpl, append([]T{header}, rows...)), table.Flush())
}

// writeRows writes a line for each row. A row that fails half-way leaves no half of a line.
func writeRows[T any](out io.Writer, format string, tmpl *template.Template, rows []T) error {
	var line bytes.Buffer
	for _, row := range rows {
		line.Reset()
		if err := tmpl.Execute(&line, row); err != nil {
			return templateError(format, err)
		}
		line.WriteByte('\n')
		if _, err := out.Write(line.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Object prints one object: as JSON with format "json", otherwise with a template.
func Object(w io.Writer, format string, object any) error {
	if format == "json" {
		return writeJSON(w, object, "")
	}
	tmpl, err := parse(format)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := tmpl.Execute(&text, object); err != nil {
		// Templates may name the keys of the JSON document too, as .Id, where a field is called ID.
		text.Reset()
		if executeJSON(&text, tmpl, object) != nil {
			return templateError(format, err)
		}
	}
	text.WriteByte('\n')
	_, err = w.Write(text.Bytes())
	return err
}

func executeJSON(w io.Writer, tmpl *template.Template, object any) error {
	document, err := json.Marshal(object)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber() // a float64 would print large numbers with an exponent
	var keys any
	if err := decoder.Decode(&keys); err != nil {
		return err
	}
	return tmpl.Option("missingkey=error").Execute(w, keys)
}

// JSON prints object indented, as inspect does without a format.
func JSON(w io.Writer, object any) error { return writeJSON(w, object, "    ") }

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}

func parse(text string) (*template.Template, error) {
	// A shell's quotes pass \t and \n on as two characters.
	unescaped := strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	tmpl, err := template.New("").Funcs(functions()).Parse(unescaped)
	if err != nil {
		return nil, templateError(text, err)
	}
	return tmpl, nil
}

// templateError drops the template's name, which nobody gave, from the sentence.
func templateError(format string, err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "template: "), ":")
	return fmt.Errorf("cannot format with %q: %w", format, errors.New(text))
}

func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(value any) (string, error) {
			var text bytes.Buffer
			err := writeJSON(&text, value, "")
			return strings.TrimSuffix(text.String(), "\n"), err
		},
		"split": strings.Split,
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": func(text string) string {
			if text == "" {
				return ""
			}
			return strings.ToUpper(text[:1]) + text[1:]
		},
		"pad": func(text string, before, after int) string {
			return strings.Repeat(" ", before) + text + strings.Repeat(" ", after)
		},
		"truncate": func(text string, length int) string {
			if runes := []rune(text); len(runes) > length {
				return string(runes[:length])
			}
			return text
		},
	}
}
