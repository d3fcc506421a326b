package main

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// output is standard output. It keeps the first error, so that a command whose answer did not get where it should fails
// whether or not each single write was looked at.
type output struct {
	to io.Writer

	mu  sync.Mutex
	err error
}

func (o *output) Write(data []byte) (int, error) {
	n, err := o.to.Write(data)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = err
		}
	}
	return n, err
}

// File is what package terminal looks at.
func (o *output) File() *os.File {
	file, _ := o.to.(*os.File)
	return file
}

// failed says that something was not written.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("cannot write the output: %w", o.err)
}
