// Package script runs the built program as a user does: scripts with real clients against the real server, one script for
// each thing it can do. They need mosquitto_pub, _sub and _rr, openssl, node (with test/e2e installed), chromium, gcc and Eclipse
// Paho for Python and C.
package script

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long anything may take that a script waits for.
const patience = 30 * time.Second

var program, repository string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cloudsignal-script-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "cloudsignal")
	if repository, err = filepath.Abs("../.."); err != nil {
		panic(err)
	}
	interop := filepath.Join(repository, "test", "interop") // a module of its own
	for _, build := range []struct {
		dir     string
		command []string
	}{
		{repository, []string{"go", "build", "-o", program, "cloudsignal/cmd/cloudsignal"}},
		{repository, []string{"go", "build", "-o", filepath.Join(dir, "web-example"), "cloudsignal/examples/web"}},
		{interop, []string{"go", "build", "-o", filepath.Join(dir, "paho-go"), "./paho"}},
		{interop, []string{"gcc", "-O1", "-o", filepath.Join(dir, "paho-c"), "c/client.c", "-lpaho-mqtt3cs"}},
	} {
		cmd := exec.Command(build.command[0], build.command[1:]...)
		cmd.Dir = build.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s", strings.Join(build.command, " "), err, out)
			return 1
		}
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server":     serverCommand,
			"logged":     loggedCommand,
			"subscribed": subscribedCommand,
			"mode":       modeCommand,
			"fetch":      fetchCommand,
			"examples":   examplesCommand,
			"field":      fieldCommand,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(program)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			if chromium := os.Getenv("CHROMIUM"); chromium != "" {
				e.Setenv("CHROMIUM", chromium)
			}
			e.Setenv("E2E", filepath.Join(repository, "test", "e2e"))
			e.Setenv("INTEROP", filepath.Join(repository, "test", "interop"))
			e.Values[key{}] = make(map[string]*process)
			return nil
		},
		RequireExplicitExec: true,
	})
}

type key struct{}

// process is a server that a script started.
type process struct {
	cmd       *exec.Cmd
	addresses map[string]string
	stderr    *output
	exited    chan struct{}
	err       error
}

// output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// ready is the line of serve -o json.
type ready struct {
	Event       string            `json:"event"`
	Addresses   map[string]string `json:"addresses"`
	CA          string            `json:"ca"`
	Credentials string            `json:"credentials"`
}

// credentials is the file that it names.
type credentials struct {
	Organization string `json:"organization"`
	Users        []struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"users"`
	SecretKey string `json:"secret_key"`
}

func readCredentials(file string) (c credentials, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(b, &c)
}

// startServer runs `serve` with every listener on a free port, unless args say otherwise, and waits until it is ready.
func startServer(dir string, env []string, args ...string) (*process, ready, error) {
	p := &process{stderr: new(output), exited: make(chan struct{})}
	all := []string{"serve", "-o", "json"}
	for _, l := range []string{"mqtts", "wss", "https", "metrics"} {
		all = append(all, "--"+l, "127.0.0.1:0")
	}
	p.cmd = exec.Command(program, append(all, args...)...)
	// A race that the server finds is in its log at once, and its end is a failure.
	p.cmd.Dir, p.cmd.Env, p.cmd.Stderr = dir, append(env, "GORACE=halt_on_error=1 exitcode=66"), p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, ready{}, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, ready{}, err
	}
	line := make(chan string, 1)
	go func() {
		r := bufio.NewReader(stdout)
		s, _ := r.ReadString('\n')
		line <- s
		io.Copy(io.Discard, r) //nolint:errcheck // it ends with the process
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	var r ready
	select {
	case s := <-line:
		if err := json.Unmarshal([]byte(s), &r); err != nil {
			<-p.exited
			return nil, r, fmt.Errorf("the server ended: %w\n%s", p.err, p.stderr)
		}
	case <-time.After(patience):
		p.kill()
		return nil, r, fmt.Errorf("the server is not ready\n%s", p.stderr)
	}
	p.addresses = r.Addresses
	return p, r, nil
}

func (p *process) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.exited
}

// terminate sends SIGTERM and waits for the end, which must be a success.
func (p *process) terminate() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.kill()
		return errors.New("the server did not end")
	}
}

// serverCommand: server start [FLAG...] | stop | kill | log FILE. After start the environment holds the ports (MQTTS, WSS, HTTPS,
// METRICS, MQTT, WS), CA, CREDENTIALS, ORG, KEY, AGENT, AGENT_PASSWORD, DASHBOARD, DASHBOARD_PASSWORD.
func serverCommand(ts *testscript.TestScript, neg bool, args []string) {
	servers := ts.Value(key{}).(map[string]*process)
	switch args[0] {
	case "start":
		p, r, err := startServer(ts.MkAbs("."), []string{"HOME=" + ts.Getenv("HOME"), "PATH=" + os.Getenv("PATH")}, args[1:]...)
		ts.Check(err)
		servers["server"] = p
		ts.Defer(p.kill)
		for name, address := range r.Addresses {
			_, port, err := net.SplitHostPort(address)
			ts.Check(err)
			ts.Setenv(strings.ToUpper(name), port)
		}
		ts.Setenv("CA", r.CA)
		ts.Setenv("CREDENTIALS", r.Credentials)
		if r.Credentials == "" {
			return
		}
		c, err := readCredentials(r.Credentials)
		ts.Check(err)
		ts.Setenv("ORG", c.Organization)
		ts.Setenv("KEY", c.SecretKey)
		ts.Setenv("AGENT", c.Users[0].Username)
		ts.Setenv("AGENT_PASSWORD", c.Users[0].Password)
		ts.Setenv("DASHBOARD", c.Users[1].Username)
		ts.Setenv("DASHBOARD_PASSWORD", c.Users[1].Password)
	case "stop":
		ts.Check(servers["server"].terminate())
	case "kill":
		servers["server"].kill()
	case "log":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(servers["server"].stderr.String()), 0o600))
	default:
		ts.Fatalf("server: start, stop, kill or log")
	}
}

// loggedCommand: logged REGEXP waits until the server's log has a matching line.
func loggedCommand(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(key{}).(map[string]*process)["server"]
	want := regexp.MustCompile("(?m)" + args[0])
	if err := await(func() (bool, error) { return want.MatchString(p.stderr.String()), nil }); err != nil {
		ts.Fatalf("no line of the log matches %s:\n%s", args[0], p.stderr)
	}
}

// subscribedCommand: subscribed N waits until the server counts N subscriptions.
func subscribedCommand(ts *testscript.TestScript, neg bool, args []string) {
	p := ts.Value(key{}).(map[string]*process)["server"]
	want := regexp.MustCompile(`(?m)^cloudsignal_subscriptions ` + args[0] + `$`)
	ts.Check(await(func() (bool, error) {
		b, _, err := get(http.DefaultClient, "http://"+p.addresses["metrics"]+"/metrics")
		return want.Match(b), err
	}))
}

// await asks again and again until ok or for as long as patience lasts.
func await(ok func() (bool, error)) error {
	ticker, end := time.NewTicker(10*time.Millisecond), time.After(patience)
	defer ticker.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-end:
			return errors.New("did not come about")
		}
	}
}

func get(c *http.Client, url string) (body []byte, status int, err error) {
	r, err := c.Get(url)
	if err != nil {
		return nil, 0, err
	}
	defer r.Body.Close()
	body, err = io.ReadAll(r.Body)
	return body, r.StatusCode, err
}

// modeCommand: mode 600 FILE checks permissions.
func modeCommand(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// fetchCommand: fetch URL FILE keeps a plain HTTP answer's body.
func fetchCommand(ts *testscript.TestScript, neg bool, args []string) {
	body, status, err := get(http.DefaultClient, args[0])
	ts.Check(err)
	if (status == http.StatusOK) == neg {
		ts.Fatalf("%s answered %d", args[0], status)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}
