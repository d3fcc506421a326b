package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// openLog finds out early that the log can't be written, and makes it: programs read it after success too.
func (g *globals) openLog() error {
	if g.log == "" {
		return nil
	}
	file, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		g.log = ""
		return fmt.Errorf("cannot write the log: %w", err)
	}
	return file.Close()
}

// report tells of the failure on stderr, and in the log if there is one: shims read it from there.
func (g *globals) report(failure error) {
	if g.log != "" {
		fmt.Fprintln(os.Stderr, failure)
	}
	g.write("error", "", failure.Error())
}

// warn tells of what is not as it should be, and is no failure: in the log, as stderr may be the container's by then,
// or there if nowhere else.
func (g *globals) warn(text string) { g.write("warning", "warning: ", text) }

// note tells what is done, to those who have asked for it with --debug.
func (g *globals) note(format string, args ...any) {
	if g.debug {
		g.write("debug", "debug: ", fmt.Sprintf(format, args...))
	}
}

// write adds an entry to the log. Without one it goes to stderr, as an entry for programs or, with the prefix, as a
// line for people.
func (g *globals) write(level, prefix, text string) {
	if g.log == "" {
		if g.logFormat != jsonFormat {
			fmt.Fprintln(os.Stderr, prefix+text)
			return
		}
		_, _ = os.Stderr.Write(g.entry(level, text))
		return
	}
	file, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the log:", err)
		return
	}
	if _, err := file.Write(g.entry(level, text)); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the log:", err)
	}
	_ = file.Close()
}

const (
	textFormat = "text"
	jsonFormat = "json"
)

// entry is a line of the log.
func (g *globals) entry(level, text string) []byte {
	now := time.Now().Format(time.RFC3339)
	if g.logFormat == jsonFormat {
		entry := struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now}
		if line, err := json.Marshal(entry); err == nil { // as it is for any strings
			return append(line, '\n')
		}
	}
	return []byte("time=" + strconv.Quote(now) + " level=" + level + " msg=" + strconv.Quote(text) + "\n")
}
