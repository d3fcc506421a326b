package systemd

import (
	"errors"
	"fmt"
)

const (
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"
)

// ControlGroup returns the cgroup below which the manager's units are, "" for the root of all.
func (m *Manager) ControlGroup() (string, error) {
	reply, err := m.do(call{
		path: managerPath, iface: "org.freedesktop.DBus.Properties", member: "Get", signature: "ss",
		body: func(w *writer) { w.string(managerIface); w.string("ControlGroup") },
	}, nil)
	if err != nil {
		return "", fmt.Errorf("cannot ask systemd for its cgroup: %w", err)
	}
	if kind := reply.body.signature(); kind != "s" {
		return "", errMalformed
	}
	path := reply.body.string()
	if path == "/" {
		path = ""
	}
	return path, reply.body.err
}

// StartScope makes a scope, which has to have a process, and returns when it is there. A failed unit of the same name,
// of an earlier container, gives way.
func (m *Manager) StartScope(name string, properties []Property) error {
	err := m.startScope(name, properties)
	var refusal Error
	if errors.As(err, &refusal) && refusal.Name == unitExists {
		if m.unit("ResetFailedUnit", name) == nil {
			err = m.startScope(name, properties)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot start systemd unit %q: %w", name, err)
	}
	return nil
}

func (m *Manager) startScope(name string, properties []Property) error {
	return m.job(call{
		path: managerPath, iface: managerIface, member: "StartTransientUnit", signature: "ssa(sv)a(sa(sv))",
		body: func(w *writer) {
			w.string(name)
			w.string("replace")
			w.properties(properties)
			w.array(8, func() {})
		},
	})
}

// job calls a method that starts a job, and waits for the job's end.
func (m *Manager) job(c call) error {
	results := map[string]string{} // by job: one may end before we know which it is
	heard := func(s message) {
		if s.member != "JobRemoved" {
			return
		}
		_ = s.body.uint32()
		job, _, result := s.body.string(), s.body.string(), s.body.string()
		results[job] = result
	}
	reply, err := m.do(c, heard)
	if err != nil {
		return err
	}
	job := reply.body.string()
	for {
		if result, ended := results[job]; ended {
			if result != "done" {
				return fmt.Errorf("its job has ended with the result %q", result)
			}
			return nil
		}
		next, err := m.receive()
		if err != nil {
			return err
		}
		if next.kind == signal {
			heard(next)
		}
	}
}

// SetProperties changes properties of a running unit, until the next boot. That there is none is no error: a cgroup may
// be where one would be and nonetheless not be systemd's.
func (m *Manager) SetProperties(name string, properties []Property) error {
	_, err := m.do(call{
		path: managerPath, iface: managerIface, member: "SetUnitProperties", signature: "sba(sv)",
		body: func(w *writer) { w.string(name); w.uint32(1); w.properties(properties) },
	}, nil)
	var refusal Error
	if errors.As(err, &refusal) && refusal.Name == noSuchUnit {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot change systemd unit %q: %w", name, err)
	}
	return nil
}

// Attach moves a process of the user's into a unit that was delegated.
func (m *Manager) Attach(name string, pid int) error {
	_, err := m.do(call{
		path: managerPath, iface: managerIface, member: "AttachProcessesToUnit", signature: "ssau",
		body: func(w *writer) { w.string(name); w.string(""); w.array(4, func() { w.uint32(uint32(pid)) }) },
	}, nil)
	if err != nil {
		return fmt.Errorf("cannot move process %d to systemd unit %q: %w", pid, name, err)
	}
	return nil
}

// Stop stops a unit. That there is none is no error.
func (m *Manager) Stop(name string) error {
	err := m.job(call{
		path: managerPath, iface: managerIface, member: "StopUnit", signature: "ss",
		body: func(w *writer) { w.string(name); w.string("replace") },
	})
	var refusal Error
	if errors.As(err, &refusal) && refusal.Name == noSuchUnit {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop systemd unit %q: %w", name, err)
	}
	return nil
}

// unit calls a method of the manager that takes nothing but a unit's name.
func (m *Manager) unit(method, name string) error {
	_, err := m.do(call{
		path: managerPath, iface: managerIface, member: method, signature: "s",
		body: func(w *writer) { w.string(name) },
	}, nil)
	return err
}
