package server

import (
	"strings"
	"testing"
)

func TestPanicOfAMethod(t *testing.T) {
	var reported error
	_, err := safely(func(err error) { reported = err }, func() (*int, error) { panic("broken") })
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("error %v", err)
	}
	if reported == nil || !strings.Contains(reported.Error(), "TestPanicOfAMethod") {
		t.Errorf("reported %v", reported)
	}
}
