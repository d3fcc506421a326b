package main

import (
	"os"
	"strings"
	"testing"
)

func TestQuietMonitorRaisesOneThreadsSlack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the slack of another thread takes CAP_SYS_NICE")
	}
	monitor, ok := monitorThread()
	if !ok {
		t.Fatal("no thread of Go's monitor found")
	}
	quietMonitor()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		slack, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if os.IsNotExist(err) {
			continue // it ended meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		if raised := strings.TrimSpace(string(slack)) == monitorSlack; raised != (thread.Name() == monitor) {
			t.Errorf("thread %s has the slack %s, and the monitor is thread %s", thread.Name(), strings.TrimSpace(string(slack)), monitor)
		}
	}
}
