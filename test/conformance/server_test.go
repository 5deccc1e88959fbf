// Package conformance holds the broker against every normative statement of MQTT 5.0 and 3.1.1: a table with one row for each
// (rows5_test.go, rows311_test.go), and the tests that its rows name. They talk to the built program with its default
// configuration in packets and, for what no client of ours would send, in bytes.
//
//	go test ./test/conformance                                                   over TCP
//	make conformance                                                             over TCP, TLS and WSS; writes docs/conformance.md
package conformance

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that a test waits for.
const patience = 20 * time.Second

// Transports by name.
const (
	overTCP = "tcp"
	overTLS = "tls"
	overWSS = "wss"
)

var (
	transportList = flag.String("transports", overTCP, "transports to use, of tcp, tls and wss, with commas between")
	rewrite       = flag.Bool("rewrite", false, "write docs/conformance.md anew")

	program    string
	transports []string
	broker     *server // of all tests that do not start one of their own
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the program, watched for races if GOFLAGS says so, starts it, and runs the tests, many at a time: what they wait for
// is mostly not this machine.
func run(m *testing.M) int {
	flag.Parse()
	transports = strings.Split(*transportList, ",")
	flag.Set("test.parallel", "16") //nolint:errcheck // it is a flag
	dir, err := os.MkdirTemp("", "cloudsignal-conformance-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "cloudsignal")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "cloudsignal/cmd/cloudsignal").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	broker, err = startServer(filepath.Join(dir, "data"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := broker.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the server:", err)
		return 1
	}
	if flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.list").Value.String() == "" {
		for _, wrong := range allRan() {
			fmt.Fprintln(os.Stderr, wrong)
			code = 1
		}
	}
	return code
}

type login struct{ Username, Password string }

// server is a running program with an organization.
type server struct {
	cmd       *exec.Cmd
	addresses map[string]string
	tls       *tls.Config
	all       login // may do everything
	agent     login // may publish below agents/agent-01/
	dashboard login // may subscribe below agents/
	exited    chan struct{}
	err       error
	log       strings.Builder // to be read when it has exited
}

// startServer runs the program with every listener on a free port; all else is as it is by default, unless args say otherwise.
func startServer(data string, args ...string) (*server, error) {
	s := &server{exited: make(chan struct{})}
	all := []string{"serve", "-o", "json", "--data", data}
	for _, l := range []string{"mqtt", "mqtts", "wss", "https", "metrics"} {
		all = append(all, "--"+l, "127.0.0.1:0")
	}
	s.cmd = exec.Command(program, append(all, args...)...)
	s.cmd.Env, s.cmd.Stderr = append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66"), &s.log
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line := make(chan []byte, 1)
	go func() {
		r := bufio.NewReader(stdout)
		b, _ := r.ReadBytes('\n')
		line <- b
		io.Copy(io.Discard, r) //nolint:errcheck // it ends with the process
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	select {
	case b := <-line:
		if err := s.ready(b); err != nil {
			s.cmd.Process.Kill() //nolint:errcheck // it may have ended
			<-s.exited
			return nil, fmt.Errorf("starting the server: %w (%v)\n%s", err, s.err, s.log.String())
		}
		return s, nil
	case <-time.After(patience):
		s.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-s.exited
		return nil, fmt.Errorf("the server is not ready\n%s", s.log.String())
	}
}

// ready takes the line of serve -o json.
func (s *server) ready(line []byte) error {
	var r struct {
		Addresses   map[string]string `json:"addresses"`
		CA          string            `json:"ca"`
		Credentials string            `json:"credentials"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	s.addresses = r.Addresses
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		return err
	}
	s.tls = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	s.tls.RootCAs.AppendCertsFromPEM(pem)
	var c struct {
		Organization string
		Users        []login
		SecretKey    string `json:"secret_key"`
	}
	b, err := os.ReadFile(r.Credentials)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return err
	}
	s.all, s.agent, s.dashboard = login{"server@" + c.Organization, c.SecretKey}, c.Users[0], c.Users[1]
	return nil
}

// stop ends the server as a system does; that it succeeds shows that it has found no race.
func (s *server) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-s.exited:
		if s.err != nil {
			return fmt.Errorf("%w\n%s", s.err, s.log.String())
		}
		return nil
	case <-time.After(patience):
		s.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-s.exited
		return errors.New("it did not end")
	}
}
