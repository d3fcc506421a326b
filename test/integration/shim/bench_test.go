package shim_test

import (
	"testing"
	"time"
)

// BenchmarkContainer tells what each step of a container's life takes, with a stream socket as berthd uses it.
func BenchmarkContainer(b *testing.B) {
	steps := map[string]time.Duration{}
	for b.Loop() {
		c := newContainer(b, "true")
		_, uri := c.streamURI("io.sock", nil)
		begin := time.Now()
		lap := func(step string) {
			steps[step] += time.Since(begin)
			begin = time.Now()
		}
		c.start()
		lap("start-verb")
		if _, err := c.api.Create(c.ctx(), c.request(streams{stdout: uri, stderr: uri})); err != nil {
			b.Fatal(err)
		}
		lap("create")
		c.run("")
		lap("start")
		c.expectExit("", 0)
		lap("wait")
		c.delete("")
		lap("delete")
	}
	for step, took := range steps {
		b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), step+"-ms")
	}
}
