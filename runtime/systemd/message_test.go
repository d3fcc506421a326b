package systemd

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestEncodeIsWhatDBusSays(t *testing.T) {
	got := call{path: "/a", iface: "b.c", member: "D", signature: "sb", body: func(w *writer) { w.string("x"); w.uint32(1) }}.encode(7)
	want := []byte("l\x01\x00\x01\x0c\x00\x00\x00\x07\x00\x00\x00" + "\x5d\x00\x00\x00" +
		"\x01\x01o\x00\x02\x00\x00\x00/a\x00\x00\x00\x00\x00\x00" +
		"\x02\x01s\x00\x03\x00\x00\x00b.c\x00\x00\x00\x00\x00" +
		"\x03\x01s\x00\x01\x00\x00\x00D\x00\x00\x00\x00\x00\x00\x00" +
		"\x06\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x08\x01g\x00\x02sb\x00")
	want = bytes.TrimRight(want, "")
	if len(got) < 16 || !bytes.Equal(got[:12], want[:12]) {
		t.Fatalf("%q", got)
	}
	fields := int(binary.LittleEndian.Uint32(got[12:]))
	start := 16 + (fields+7)&^7
	m, err := decode(methodCall, got[16:16+fields], got[start:])
	if err != nil || m.member != "D" || m.types != "sb" {
		t.Fatalf("%+v, %v", m, err)
	}
	if s, n := m.body.string(), m.body.uint32(); s != "x" || n != 1 || m.body.err != nil || m.body.at != len(m.body.data) {
		t.Errorf("body %q, %d, %v", s, n, m.body.err)
	}
}

func TestVariants(t *testing.T) {
	for want, value := range map[string]any{
		"\x01s\x00\x00\x02\x00\x00\x00hi\x00":                                                              "hi",
		"\x01b\x00\x00\x01\x00\x00\x00":                                                                    true,
		"\x01t\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00":                                    uint64(5),
		"\x02au\x00\x08\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00":                                       []uint32{1, 2},
		"\x01i\x00\x00\xff\xff\xff\xff":                                                                    int32(-1),
		"\x02as\x00\x06\x00\x00\x00\x01\x00\x00\x00x\x00":                                                  []string{"x"},
		"\x05a(ss)\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00/d\x00\x00\x01\x00\x00\x00r\x00": []DeviceAllow{{"/d", "r"}},
		"\x02ay\x00\x01\x00\x00\x00\x07":                                                                   []byte{7},
	} {
		w := &writer{}
		if w.variant(value); string(w.data) != want {
			t.Errorf("%v: %q, want %q", value, w.data, want)
		}
	}
}

// FuzzDecode: whatever comes over the socket is at most an error.
func FuzzDecode(f *testing.F) {
	message := call{path: "/a", iface: "b.c", member: "D", signature: "s", body: func(w *writer) { w.string("x") }}.encode(1)
	f.Add(message[16:], []byte("\x01\x00\x00\x00x\x00"))
	f.Fuzz(func(t *testing.T, fields, body []byte) {
		m, err := decode(signal, fields, body)
		if err != nil {
			return
		}
		_, _ = m.body.uint32(), m.body.string()
		if m.body.at > len(body) {
			t.Error("read beyond the end")
		}
	})
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]int{"252.38-1~deb12u1": 252, "v257.7": 257, "249": 249, "main": 0} {
		if got := number(version); got != want {
			t.Errorf("%q: %d, want %d", version, got, want)
		}
	}
}
