package monitor

import (
	"os"
	"strings"
	"testing"
)

func TestQuietRaisesOneThreadsSlack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the slack of another thread takes CAP_SYS_NICE")
	}
	monitor, ok := thread()
	if !ok {
		t.Fatal("no thread of Go's monitor found")
	}
	Quiet()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range threads {
		now, err := os.ReadFile("/proc/" + other.Name() + "/timerslack_ns")
		if os.IsNotExist(err) {
			continue // it ended meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		if raised := strings.TrimSpace(string(now)) == slack; raised != (other.Name() == monitor) {
			t.Errorf("thread %s has the slack %s, and the monitor is thread %s", other.Name(), strings.TrimSpace(string(now)), monitor)
		}
	}
}
