package script_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berthd/berth/test/testenv"
)

// TestScripts runs the stories of testdata, each with a daemon of its own. A story knows $REGISTRY, $PRIVATE (which
// asks for credentials), $IMAGE and $WEB (not pulled yet), $PORT and $PORT2 (free), $DIR (the daemon's directory), and the commands in the table below.
func TestScripts(t *testing.T) {
	w := newWorld(t)
	path := testenv.BinDir(t) + string(os.PathListSeparator) + os.Getenv("PATH")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		WorkdirRoot:         t.TempDir(), // testscript's own stays when -run picks some stories
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			d := startDaemon(env.T().(testing.TB))
			env.Values[daemonKey{}] = d
			env.Vars = append(env.Vars, "PATH="+path, "BERTH_HOST="+d.Host, "DIR="+d.dir(), "REGISTRY="+w.registry, "PRIVATE="+w.private,
				"IMAGE="+w.image("busybox"), "WEB="+w.image("web"), "PORT="+freePort(d.t), "PORT2="+freePort(d.t), "OCTET="+strconv.Itoa(os.Getpid()%256), "NO_COLOR=1")
			return nil
		},
		Condition: func(condition string) (bool, error) {
			path, is := strings.CutPrefix(condition, "exists:")
			if !is {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			_, err := os.Stat(path)
			return err == nil, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"eventually": eventually,
			"nothing":    nothing,
			"daemon":     controlDaemon,
			"proxy":      faultyRegistry,
		},
	})
}

type daemonKey struct{}

func daemonOf(ts *testscript.TestScript) *daemon { return ts.Value(daemonKey{}).(*daemon) }

// exits STATUS PROGRAM [ARG...] runs a program as exec does, and fails unless it exits with the status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got, err = exit.ExitCode(), nil
	}
	ts.Check(err)
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// eventually PROGRAM [ARG...] repeats a program until it succeeds, for what no event announces.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err != nil) == neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within 20 s: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nothing is left: no container, shim, mount or network namespace.
func nothing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || strings.Join(args, " ") != "is left" {
		ts.Fatalf("usage: nothing is left")
	}
	daemonOf(ts).becomesEmpty()
}

// controlDaemon is: daemon start|stop|kill.
func controlDaemon(ts *testscript.TestScript, neg bool, args []string) {
	d := daemonOf(ts)
	switch {
	case !neg && len(args) == 1 && args[0] == "start":
		d.Start()
	case !neg && len(args) == 1 && args[0] == "stop":
		d.Stop()
	case !neg && len(args) == 1 && args[0] == "kill":
		d.Kill()
	default:
		ts.Fatalf("usage: daemon start|stop|kill")
	}
}

// faultyRegistry is: proxy corrupt|half. It puts a proxy before the registry that changes a byte in each layer, or
// breaks off in the middle of it and is then gone, and sets $PROXY to its address.
func faultyRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || (args[0] != "corrupt" && args[0] != "half") {
		ts.Fatalf("usage: proxy corrupt|half")
	}
	target, err := url.Parse("http://" + ts.Getenv("REGISTRY"))
	ts.Check(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	broken := false
	proxy.ModifyResponse = func(response *http.Response) error {
		if broken {
			return errors.New("the registry is gone")
		}
		if !strings.Contains(response.Request.URL.Path, "/blobs/") || response.ContentLength < 4096 || response.Request.Method != http.MethodGet {
			return nil
		}
		content, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if args[0] == "corrupt" {
			content[len(content)/2] ^= 1
		} else {
			content, broken = content[:len(content)/2], true
		}
		response.Body = io.NopCloser(bytes.NewReader(content))
		return nil
	}
	proxy.ErrorLog = nil
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	server := httptest.NewServer(proxy)
	ts.Defer(server.Close)
	ts.Setenv("PROXY", strings.TrimPrefix(server.URL, "http://"))
}
