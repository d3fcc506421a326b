package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"
)

// ControlGroup returns the cgroup below which the manager's units are, "" for the root of all.
func (m *Manager) ControlGroup() (string, error) {
	path, err := m.text("ControlGroup")
	if err != nil {
		return "", fmt.Errorf("cannot ask systemd for its cgroup: %w", err)
	}
	if path == "/" {
		path = ""
	}
	return path, nil
}

// text returns a property of the manager's.
func (m *Manager) text(property string) (string, error) {
	reply, err := m.do(call{
		path: managerPath, iface: "org.freedesktop.DBus.Properties", member: "Get", signature: "ss",
		body: func(w *writer) { w.string(managerIface); w.string(property) },
	}, nil)
	if err != nil {
		return "", err
	}
	if kind := reply.body.signature(); kind != "s" {
		return "", errMalformed
	}
	text := reply.body.string()
	return text, reply.body.err
}

// Idle is the CPUWeight of what gets only the processor time that nobody else wants.
const Idle uint64 = 0

const idleSince = 252 // the version

// known leaves out what an older systemd would refuse together with all the rest.
func (m *Manager) known(properties []Property) ([]Property, error) {
	isIdle := func(p Property) bool { return p.Name == "CPUWeight" && p.Value == Idle }
	if !slices.ContainsFunc(properties, isIdle) {
		return properties, nil
	}
	version, err := m.text("Version")
	if err != nil {
		return nil, fmt.Errorf("cannot ask systemd for its version: %w", err)
	}
	if number(version) >= idleSince {
		return properties, nil
	}
	return slices.DeleteFunc(slices.Clone(properties), isIdle), nil
}

// number is what a version as "v252.38-1" begins with, or 0.
func number(version string) int {
	text := strings.TrimPrefix(version, "v")
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	n, _ := strconv.Atoi(text)
	return n
}

// StartScope makes a scope, which has to have a process, and returns when it is there. A failed unit of the same name,
// of an earlier container, gives way.
func (m *Manager) StartScope(name string, properties []Property) error {
	properties, err := m.known(properties)
	if err != nil {
		return err
	}
	err = m.startScope(name, properties)
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

// SetProperties changes properties of a running unit, until the next boot, and returns when systemd has written them to the
// files of its cgroup. That there is no unit is no error: a cgroup may be where one would be and nonetheless not be systemd's.
func (m *Manager) SetProperties(name string, properties []Property) error {
	properties, err := m.known(properties)
	if err != nil {
		return err
	}
	_, err = m.do(call{
		path: managerPath, iface: managerIface, member: "SetUnitProperties", signature: "sba(sv)",
		body: func(w *writer) { w.string(name); w.uint32(1); w.properties(properties) },
	}, nil)
	var refusal Error
	if errors.As(err, &refusal) && refusal.Name == noSuchUnit {
		return nil
	}
	if err == nil {
		// systemd replies before it writes the files, and writes them before it takes another call.
		_, err = m.do(call{path: managerPath, iface: "org.freedesktop.DBus.Peer", member: "Ping"}, nil)
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
