package panics

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestRecover(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	failing := func() (err error) {
		defer Recover(log, "call X", &err)
		var none *bytes.Buffer
		none.WriteString("x")
		return nil
	}
	err := failing()
	if e := (Error{}); !errors.As(err, &e) || !strings.Contains(err.Error(), "call X") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(logged.String(), "TestRecover") {
		t.Errorf("the log has no stack: %s", logged.String())
	}
	func() {
		defer Recover(log, "a goroutine", nil)
		panic("nobody takes the error")
	}()
	kept := errors.New("kept")
	quiet := func() (err error) {
		defer Recover(log, "call Y", &err)
		return kept
	}
	if err := quiet(); !errors.Is(err, kept) {
		t.Errorf("without a panic: %v", err)
	}
}
