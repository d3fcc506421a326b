package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device program of cgroup v2 is loaded with bare bpf calls: github.com/cilium/ebpf would first find out with a
// dozen calls what the kernel can, which is known here. And the device filter of the cgroups library lets a process
// open a device for writing by a rule that allows only reading, as it asks whether any access is allowed, not all.

// instruction is the kernel's struct bpf_insn.
type instruction struct {
	op        uint8
	registers uint8 // the destination in the lower four bits, the source in the upper ones
	offset    int16
	immediate int32
}

const (
	opLoadWord    = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMove        = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opMoveReg     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd         = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opShiftRight  = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opJumpUnequal = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJumpEqual   = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	opExit        = unix.BPF_JMP | unix.BPF_EXIT
)

// The registers of the program: the kernel passes struct bpf_cgroup_dev_ctx {access<<16|type, major, minor} in r1.
const (
	result = iota
	deviceContext
	kind
	wanted
	major
	minor
)

// registers is the byte with both registers of an instruction.
func registers(destination, source uint8) uint8 { return source<<4 | destination }

// deviceProgram writes the rules down as an eBPF program that returns 1 for an allowed access:
//
//	for each exception:
//	        if type, major or minor differ, or the access is not covered: goto next
//	        return !default
//	return default
func deviceProgram(rules deviceRules) []instruction {
	program := []instruction{
		{op: opLoadWord, registers: registers(kind, deviceContext)},
		{op: opMoveReg, registers: registers(wanted, kind)},
		{op: opShiftRight, registers: wanted, immediate: 16},
		{op: opAnd, registers: kind, immediate: 0xffff},
		{op: opLoadWord, registers: registers(major, deviceContext), offset: 4},
		{op: opLoadWord, registers: registers(minor, deviceContext), offset: 8},
	}
	for _, d := range rules.sorted() {
		program = append(program, exception(d, rules.exceptions[d], rules.allow)...)
	}
	return append(program, verdict(rules.allow)...)
}

func exception(d device, what access, fallback bool) []instruction {
	block := []instruction{{op: opJumpUnequal, registers: kind, immediate: int32(deviceKind(d.kind))}}
	if what != mayAll {
		uncovered, jump := int32(mayAll&^what), uint8(opJumpUnequal) // allowed only if nothing else is wanted
		if fallback {
			uncovered, jump = int32(what), opJumpEqual // denied if any of it is wanted
		}
		block = append(block,
			instruction{op: opMoveReg, registers: registers(result, wanted)},
			instruction{op: opAnd, registers: result, immediate: uncovered},
			instruction{op: jump, registers: result})
	}
	if d.major != anyNumber {
		block = append(block, instruction{op: opJumpUnequal, registers: major, immediate: int32(uint32(d.major))})
	}
	if d.minor != anyNumber {
		block = append(block, instruction{op: opJumpUnequal, registers: minor, immediate: int32(uint32(d.minor))})
	}
	block = append(block, verdict(!fallback)...)
	for i := range block {
		if block[i].op == opJumpUnequal || block[i].op == opJumpEqual {
			block[i].offset = int16(len(block) - i - 1)
		}
	}
	return block
}

func verdict(allow bool) []instruction {
	value := int32(0)
	if allow {
		value = 1
	}
	return []instruction{{op: opMove, registers: result, immediate: value}, {op: opExit}}
}

func deviceKind(letter byte) int {
	if letter == 'b' {
		return unix.BPF_DEVCG_DEV_BLOCK
	}
	return unix.BPF_DEVCG_DEV_CHAR
}

// attachDevices makes the rules those of the cgroup behind fd. Programs of an earlier call are detached only when the
// new one is attached: while several are, all of them have to allow an access.
func attachDevices(fd int, rules deviceRules) error {
	old, err := attachedPrograms(fd)
	if err != nil {
		return err
	}
	if !rules.allow || len(rules.exceptions) > 0 {
		program, err := loadProgram(deviceProgram(rules))
		if err != nil {
			return err
		}
		defer unix.Close(program)
		attach := attachAttr{target: uint32(fd), program: uint32(program), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
		if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
			return fmt.Errorf("cannot attach the device program: %w", err)
		}
	}
	for _, id := range old {
		if err := detachProgram(fd, id); err != nil {
			return err
		}
	}
	return nil
}

// loadAttr, attachAttr, queryAttr and idAttr are the parts of the kernel's union bpf_attr that each command reads. The
// kernel takes what lies beyond the given size as zero.
type loadAttr struct {
	kind, count        uint32
	code, license      uint64
	logLevel, logSize  uint32
	log                uint64
	kernel, flags      uint32
	name               [16]byte
	ifindex, attachFor uint32
}

type attachAttr struct {
	target, program, kind, flags, replace uint32
}

type queryAttr struct {
	target, kind, flags, attachFlags uint32
	ids                              uint64
	count, _                         uint32
}

type idAttr struct {
	id, next, flags uint32
}

func loadProgram(code []instruction) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := loadAttr{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		attachFor: unix.BPF_CGROUP_DEVICE,
	}
	copy(attr.name[:], "berth_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if err != nil {
		return -1, fmt.Errorf("cannot load the device program: %w", err)
	}
	return fd, nil
}

func attachedPrograms(fd int) ([]uint32, error) {
	ids := make([]uint32, 64) // the kernel's own limit for one cgroup
	attr := queryAttr{
		target: uint32(fd), kind: unix.BPF_CGROUP_DEVICE,
		ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids)),
	}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(ids)
	if err != nil {
		return nil, fmt.Errorf("cannot list the device programs: %w", err)
	}
	return slices.Clone(ids[:attr.count]), nil
}

func detachProgram(fd int, id uint32) error {
	byID := idAttr{id: id}
	program, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open the earlier device program: %w", err)
	}
	defer unix.Close(program)
	attr := attachAttr{target: uint32(fd), program: uint32(program), kind: unix.BPF_CGROUP_DEVICE}
	if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("cannot detach the earlier device program: %w", err)
	}
	return nil
}

// bpf is safe as the kernel only reads and writes the size bytes at attr, and what their pointers name is kept alive
// by the callers.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EINTR, unix.EAGAIN: // the verifier gives way to signals
			continue
		default:
			return -1, errno
		}
	}
}
