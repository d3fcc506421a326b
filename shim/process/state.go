package process

import (
	"fmt"

	"github.com/berthd/berth/internal/errdefs"
)

// State is where a process is in its life:
//
//	created ──start──► running ◄──pause, resume──► paused
//	   │                  │                          │
//	   └───────exit───────┴───────────► stopped ◄────┘
//	                                       │
//	                                       └──delete──► deleted
type State int

// The states.
const (
	Created State = iota
	Running
	Paused
	Stopped
	Deleted
)

func (s State) String() string {
	return [...]string{"created", "running", "paused", "stopped", "deleted"}[s]
}

// require returns an error unless the process is in one of the states.
func (p *Process) require(verb string, states ...State) error {
	for _, s := range states {
		if p.state == s {
			return nil
		}
	}
	class := errdefs.ErrFailedPrecondition
	if p.state >= Stopped && verb != "delete" {
		class = errdefs.ErrNotFound // what containerd's clients expect of a process that is gone
	}
	return errdefs.As(class, fmt.Errorf("cannot %s %s: it is %s", verb, p.name(), p.state))
}
