package filter

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/internal/errdefs"
	berthv1 "github.com/berthd/berth/proto/berth/v1"
)

type thing struct {
	name, driver string
	labels       map[string]string
	created      time.Time
	used         bool
}

func keys() map[string]Key[thing] {
	labels := func(o thing) map[string]string { return o.labels }
	return map[string]Key[thing]{
		"name": Matches(func(o thing) []string { return []string{o.name, "/" + o.name} }), "id": Prefix(func(o thing) string { return o.name }),
		"driver": Equals(func(o thing) string { return o.driver }, "a", "b"), "used": Bool(func(o thing) bool { return o.used }),
		"label": Label(labels), "label!": NoLabel(labels), "until": Until(func(o thing) time.Time { return o.created }),
	}
}

func parse(texts ...string) (Condition[thing], error) {
	var filters []*berthv1.Filter
	for _, text := range texts {
		key, values, has := strings.Cut(text, ":")
		filter := &berthv1.Filter{Key: key}
		if has {
			filter.Values = strings.Split(values, ",")
		}
		filters = append(filters, filter)
	}
	return Parse("things", filters, keys())
}

func TestParse(t *testing.T) {
	now := time.Now()
	things := []thing{
		{"one", "a", map[string]string{"tier": "web", "app": "x"}, now.Add(-time.Hour), true},
		{"two", "b", map[string]string{"tier": "web"}, now, false},
		{"three", "a", nil, now, false},
	}
	for query, want := range map[string]string{
		"":                            "one two three",
		"label:tier=web":              "one two",
		"label:tier=web,app=x":        "one", // labels must all be there
		"label:tier,app=y":            "",
		"label!:tier=web":             "three",
		"label!:app,nothing":          "two three",
		"driver:a,b":                  "one two three", // values of another key are alternatives
		"driver:a used:false":         "three",
		"driver":                      "one two three",
		"name:^/two$":                 "two",
		"name:^two$":                  "two",
		"name:o":                      "one two",
		"id:t":                        "two three",
		"until:30m":                   "one",
		"until:2020-01-02":            "",
		"until:2100-01-02T03:04:05Z":  "one two three",
		"used:1 name:e$ label:app":    "one",
		"until:1 label:tier driver:b": "",
	} {
		condition, err := parse(strings.Fields(query)...)
		if err != nil {
			t.Errorf("%q: %v", query, err)
			continue
		}
		var got []string
		for _, object := range things {
			if condition(object) {
				got = append(got, object.name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
}

func TestInvalidFilters(t *testing.T) {
	for query, want := range map[string]string{
		"colour:red":  `unknown filter "colour" for things: want one of driver, id, label, label!, name, until, used`,
		"name:(":      `invalid filter name="(": `,
		"driver:c":    `invalid filter driver="c": want a or b`,
		"used:maybe":  `invalid filter used="maybe": want true or false`,
		"until:never": `invalid filter until="never": want a duration`,
	} {
		_, err := parse(query)
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", query, err, want)
		}
	}
}
