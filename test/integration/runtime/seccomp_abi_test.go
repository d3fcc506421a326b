package runtime_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The three ways in which a program makes a directory on x86-64, and ends with the error's number.
const (
	loadAddress = 0x400000
	headers     = 64 + 56
	pathAddress = loadAddress + headers + 128 // behind the code
)

func immediate(op byte, value uint32) []byte {
	return append([]byte{op}, binary.LittleEndian.AppendUint32(nil, value)...)
}

// mkdirCode is the machine code of the call: its number, and the registers of the path and the mode.
func mkdirCode(number uint32, path, mode byte, enter ...byte) []byte {
	const movEAX, movEDI = 0xb8, 0xbf
	code := append(immediate(movEAX, number), immediate(path, pathAddress)...)
	code = append(append(code, immediate(mode, 0o755)...), enter...)
	code = append(code, 0xf7, 0xd8, 0x89, 0xc7)              // neg eax; mov edi, eax
	code = append(code, immediate(movEAX, unix.SYS_EXIT)...) // as x86-64, which every filter has
	return append(code, 0x0f, 0x05)
}

// program is a file that the kernel executes.
func program(t *testing.T, code []byte) []byte {
	t.Helper()
	image := append(append(code, make([]byte, pathAddress-loadAddress-headers-len(code))...), "/tmp/new\x00"...)
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: loadAddress + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	size := uint64(headers + len(image))
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: loadAddress, Paddr: loadAddress, Filesz: size, Memsz: size, Align: 0x1000}
	var file bytes.Buffer
	for _, part := range []any{header, segment, image} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

// TestSeccompArchitectures makes the same call in each way. Those of architectures that a profile has no word of end
// the program.
func TestSeccompArchitectures(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("executes machine code of x86-64")
	}
	const (
		denied, killed                         = int(unix.ENOSPC), 128 + int(unix.SIGSYS)
		movEBX, movECX, movESI, movEDI, x32Bit = 0xbb, 0xb9, 0xbe, 0xbf, 0x40000000
		mkdirNumber                            = 83
	)
	programs := map[string][]byte{
		"x86-64": mkdirCode(mkdirNumber, movEDI, movESI, 0x0f, 0x05),
		"x32":    mkdirCode(x32Bit|mkdirNumber, movEDI, movESI, 0x0f, 0x05),
		"x86":    mkdirCode(39, movEBX, movECX, 0xcd, 0x80),
	}
	for _, test := range []struct {
		architectures []specs.Arch
		want          map[string]int
	}{
		{nil, map[string]int{"x86-64": denied, "x32": killed, "x86": killed}},
		{[]specs.Arch{specs.ArchX86_64}, map[string]int{"x86-64": denied, "x32": killed, "x86": killed}},
		{[]specs.Arch{specs.ArchX86}, map[string]int{"x86-64": denied, "x32": killed, "x86": denied}},
		{[]specs.Arch{specs.ArchX86_64, specs.ArchX32, specs.ArchAARCH64}, map[string]int{"x86-64": denied, "x32": denied, "x86": killed}},
		{[]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, map[string]int{"x86-64": denied, "x32": denied, "x86": denied}},
	} {
		for abi, code := range programs {
			number := uint(unix.ENOSPC)
			c := filtered(t, specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: &number}, "")
			c.Spec.Process.Args = []string{"/program"}
			c.Spec.Linux.Seccomp.Architectures = test.architectures
			if err := os.WriteFile(filepath.Join(c.Rootfs, "program"), program(t, code), 0o755); err != nil {
				t.Fatal(err)
			}
			if r := c.run(); r.Status != test.want[abi] {
				t.Errorf("%v, call of %s: %+v, want status %d", test.architectures, abi, r, test.want[abi])
			}
		}
	}
}
