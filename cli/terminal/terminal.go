// Package terminal is the user's end of a container's terminal: raw mode, its size, and the keys that detach.
package terminal

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Is tells whether stream is a terminal.
func Is(stream any) bool {
	file := fileOf(stream)
	return file != nil && term.IsTerminal(int(file.Fd()))
}

// fileOf returns the file that stream is, or writes to; nil if there is none.
func fileOf(stream any) *os.File {
	switch s := stream.(type) {
	case *os.File:
		return s
	case interface{ File() *os.File }:
		return s.File()
	}
	return nil
}

// Size returns the columns and rows of the terminal that stream is; false if it is none.
func Size(stream any) (width, height int, ok bool) {
	file := fileOf(stream)
	if file == nil {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(file.Fd()))
	return width, height, err == nil && width > 0 && height > 0
}

// MakeRaw gives every key to the process behind the terminal, instead of to line editing and signals. The function
// that it returns undoes this, once; a stream that is no terminal is left alone.
func MakeRaw(stream any) (restore func(), err error) {
	if !Is(stream) {
		return func() {}, nil
	}
	fd := int(fileOf(stream).Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	restored := false
	return func() {
		if !restored {
			restored = true
			_ = term.Restore(fd, before)
		}
	}, nil
}

// ReadPassword reads a line that is not shown while it is typed. When ctx ends, what is typed is shown again.
func ReadPassword(ctx context.Context, stream any) (string, error) {
	file, ok := stream.(*os.File)
	if !ok {
		return "", os.ErrInvalid
	}
	fd := int(file.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	line, err := Interruptible(ctx, func() (string, error) {
		password, err := term.ReadPassword(fd)
		return string(password), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, before)
	}
	return line, err
}

// Interruptible returns what read does, or ctx's error if that ends first. A read of a terminal can't be called off:
// it goes on until the process ends.
func Interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := read()
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Resizes returns a channel that tells each time the terminal has changed its size, and a function that ends this.
func Resizes() (resized <-chan os.Signal, stop func()) {
	channel := make(chan os.Signal, 1)
	signal.Notify(channel, unix.SIGWINCH)
	return channel, func() { signal.Stop(channel) }
}
