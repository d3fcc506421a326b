// Package panics keeps a panic to the task that it happened in: one request, or one goroutine that looks after one object.
package panics

import (
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Recover turns a panic of the calling function into an error and logs its stack. It must be deferred itself:
//
//	defer panics.Recover(log, "the watch of a container", &err)
//
// err may be nil where nobody takes an error.
func Recover(log *slog.Logger, task string, err *error) {
	value := recover()
	if value == nil {
		return
	}
	log.Error("panic", "task", task, "panic", value, "stack", string(debug.Stack()))
	if err != nil {
		*err = Error{Task: task, Value: value}
	}
}

// Error is what a task that panicked fails with.
type Error struct {
	Task  string
	Value any
}

func (e Error) Error() string {
	return fmt.Sprintf("%s failed because of a fault in this program (%v): its log has the details", e.Task, e.Value)
}
