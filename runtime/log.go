package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// report tells of the failure on stderr, and in the log if there is one: shims read it from there.
func (g *globals) report(failure error) {
	fmt.Fprintln(os.Stderr, failure)
	if g.log != "" {
		g.write("error", failure.Error())
	}
}

// warn tells of what is not as it should be, and is no failure: in the log, as stderr may be the container's by then,
// or there if nowhere else.
func (g *globals) warn(text string) {
	if g.log == "" {
		fmt.Fprintln(os.Stderr, "warning:", text)
		return
	}
	g.write("warning", text)
}

// write adds an entry to the log.
func (g *globals) write(level, text string) {
	file, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the log:", err)
		return
	}
	now := time.Now().Format(time.RFC3339)
	line := []byte("time=" + strconv.Quote(now) + " level=" + level + " msg=" + strconv.Quote(text))
	if g.logFormat == "json" {
		entry := struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now}
		if line, err = json.Marshal(entry); err != nil {
			fmt.Fprintln(os.Stderr, "cannot write the log:", err)
		}
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		fmt.Fprintln(os.Stderr, "cannot write the log:", err)
	}
	_ = file.Close()
}
