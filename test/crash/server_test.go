package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take that a run waits for, recovery included.
const patience = 30 * time.Second

// willGrace is the server's --will-grace here: short, so that kills fall before, after and into the moment when wills of an
// earlier run fire.
const willGrace = time.Second

var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the program, watched for races if GOFLAGS says so.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cloudsignal-crash-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "cloudsignal")
	if out, err := exec.Command("go", "build", "-o", program, "cloudsignal/cmd/cloudsignal").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// arguments start a server with plain MQTT on a free port and nothing else.
func arguments(data string) []string {
	return []string{
		"serve", "-o", "json", "--data", data, "--mqtt", "127.0.0.1:0", "--mqtts", "off", "--wss", "off", "--https", "off",
		"--metrics", "off", "--will-grace", willGrace.String(),
	}
}

// ready is the line of serve -o json.
type ready struct {
	Addresses   map[string]string `json:"addresses"`
	Credentials string            `json:"credentials"`
}

// login is a user of the first organization.
type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// readLogins gives agent-01, who may publish below agents/agent-01/, and dashboard, who may subscribe below agents/.
func readLogins(file string) (agent, dashboard login, err error) {
	var c struct {
		Users []login `json:"users"`
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || len(c.Users) < 2 {
		return login{}, login{}, fmt.Errorf("%s: %v, %d users", file, err, len(c.Users))
	}
	return c.Users[0], c.Users[1], nil
}

// process is one run of the server.
type process struct {
	cmd    *exec.Cmd
	ready  chan ready    // its line; closed without one if it ends before
	exited chan struct{} // then err is set
	err    error
}

// launch starts a server. What it logs goes behind what is in log.
func launch(log *os.File, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ready: make(chan ready, 1), exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66"), log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		r := bufio.NewReader(stdout)
		var line ready
		if s, err := r.ReadBytes('\n'); err == nil && json.Unmarshal(s, &line) == nil {
			p.ready <- line
		}
		close(p.ready)
		io.Copy(io.Discard, r) //nolint:errcheck // it ends with the process
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// await gives the ready line.
func (p *process) await() (ready, error) {
	select {
	case r, ok := <-p.ready:
		if !ok {
			<-p.exited
			return r, fmt.Errorf("the server ended before it was ready: %v", p.err)
		}
		return r, nil
	case <-time.After(patience):
		p.kill()
		return ready{}, fmt.Errorf("the server is not ready after %v", patience)
	}
}

// kill ends the process by SIGKILL, and reports whether it still ran.
func (p *process) kill() (ran bool) {
	select {
	case <-p.exited:
		return false
	default:
	}
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.exited
	return p.cmd.ProcessState.ExitCode() == -1 // by a signal
}

// place tells clients where the server is. It is nowhere from before it is killed until the next one is ready.
type place struct {
	mu      sync.Mutex
	address string
	run     int
	changed chan struct{}
}

func newPlace() *place { return &place{changed: make(chan struct{})} }

func (p *place) set(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = address
	if address != "" {
		p.run++
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait waits until the server is up, or gives "" when ctx ends.
func (p *place) wait(ctx context.Context) (address string, run int) {
	for {
		p.mu.Lock()
		address, run, changed := p.address, p.run, p.changed
		p.mu.Unlock()
		if address != "" {
			return address, run
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", 0
		}
	}
}

// up reports whether a run of the server goes on and nobody has set about killing it.
func (p *place) up(run int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address != "" && p.run == run
}

// pause waits until the server's state changes, and a moment at most: for a dial that failed though the server is up.
func (p *place) pause(ctx context.Context) {
	p.mu.Lock()
	changed := p.changed
	p.mu.Unlock()
	select {
	case <-changed:
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

// How often await asks.
const (
	often  = 2 * time.Millisecond
	slowly = 200 * time.Millisecond // what reads all of a ledger
)

// await asks again and again until ok, for as long as limit.
func await(limit, every time.Duration, ok func() bool) bool {
	ticker, end := time.NewTicker(every), time.After(limit)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-end:
			return false
		}
	}
	return true
}
