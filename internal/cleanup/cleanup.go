// Package cleanup undoes the steps of a multi-step operation in reverse order when a later step fails.
package cleanup

import (
	"context"
	"errors"
	"time"
)

// Stack collects undo steps. The zero value is ready to use. It is not safe for concurrent use.
//
//	var undo cleanup.Stack
//	defer func() { err = undo.Run(ctx, err) }()
//	... mount ...
//	undo.Add(func(ctx context.Context) error { return unmount() })
type Stack struct {
	steps []func(context.Context) error
}

// Add pushes a step that undoes what the caller has just done.
func (s *Stack) Add(step func(context.Context) error) {
	s.steps = append(s.steps, step)
}

// timeout bounds all steps of one Run together: an undo that hangs must not keep its caller for ever.
const timeout = 30 * time.Second

// Run does nothing and returns nil if err is nil. Otherwise it runs the steps, newest first, and returns err joined
// with what failed while undoing. The steps get a context that outlives a cancelled ctx, because a cancelled
// operation has to be undone too.
func (s *Stack) Run(ctx context.Context, err error) error {
	if err == nil {
		s.steps = nil
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	errs := []error{err}
	for i := len(s.steps) - 1; i >= 0; i-- {
		if undoErr := s.steps[i](ctx); undoErr != nil {
			errs = append(errs, undoErr)
		}
	}
	s.steps = nil
	if len(errs) == 1 {
		return err
	}
	return errors.Join(errs...)
}
