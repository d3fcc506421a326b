package cleanup

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestRunUndoesNewestFirst(t *testing.T) {
	var undo Stack
	var order []int
	for i := range 3 {
		undo.Add(func(context.Context) error {
			order = append(order, i)
			return nil
		})
	}
	failed := errors.New("failed")
	if err := undo.Run(t.Context(), failed); !errors.Is(err, failed) {
		t.Fatalf("Run returned %v, want the error it was given", err)
	}
	if want := []int{2, 1, 0}; !slices.Equal(order, want) {
		t.Errorf("steps ran in order %v, want %v", order, want)
	}
}

func TestRunKeepsStepsBackOnSuccess(t *testing.T) {
	var undo Stack
	undo.Add(func(context.Context) error {
		t.Error("a step ran though the operation succeeded")
		return nil
	})
	if err := undo.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestRunOutlivesCancelAndReportsUndoErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var undo Stack
	undoFailed := errors.New("undo failed")
	undo.Add(func(ctx context.Context) error {
		if ctx.Err() != nil {
			t.Errorf("the step's context is %v", ctx.Err())
		}
		return undoFailed
	})
	err := undo.Run(ctx, context.Canceled)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, undoFailed) {
		t.Errorf("Run returned %v, want both errors", err)
	}
}
