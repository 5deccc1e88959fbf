package crash

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

// TestSyncBeforeAcknowledgement traces the server's system calls while a message for a session that is away comes at QoS 1,
// and one at QoS 2. Every sync is made 20 ms slower, so that an acknowledgement which does not wait for it overtakes it.
func TestSyncBeforeAcknowledgement(t *testing.T) {
	dir := t.TempDir()
	trace := filepath.Join(dir, "strace.txt")
	args := append([]string{
		"-f", "-ttt", "-y", "-xx", "-s", "65536", "-o", trace, "-e", "inject=fdatasync,fsync:delay_enter=20000",
		"-e", "trace=read,recvfrom,write,writev,sendto,sendmsg,fdatasync,fsync", program,
	}, arguments(filepath.Join(dir, "data"))...)
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("strace", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := launch(log, cmd)
	if err != nil {
		t.Fatal(err)
	}
	stop := func() { // strace passes no signal on: the group is strace and the server, and strace ends with that
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
		<-p.exited
	}
	defer stop()
	messages, err := publishTraced(p)
	if err != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, b)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatal("the server does not end")
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	calls, err := parseTrace(f)
	if err != nil {
		t.Fatal(err)
	}
	for ack, payload := range messages {
		if err := syncedFirst(calls, []byte(payload), []byte(ack)); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

// publishTraced gives the payloads by their acknowledgements.
func publishTraced(p *process) (map[string]string, error) {
	r, err := p.await()
	if err != nil {
		return nil, err
	}
	agent, dashboard, err := readLogins(r.Credentials)
	if err != nil {
		return nil, err
	}
	s, err := converse(r, "away", dashboard, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.ask(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: []byte("agents/#"), QoS: 2}}}); err != nil {
		return nil, err
	}
	if p, err := s.ask(&mqtt.Disconnect{}); err == nil { // when it closes, the session is away
		return nil, fmt.Errorf("DISCONNECT is answered with %s", p.Kind())
	}
	publisher, err := converse(r, "here", agent, true)
	if err != nil {
		return nil, err
	}
	defer publisher.Close()
	messages := make(map[string]string)
	for _, m := range []struct {
		qos  mqtt.QoS
		id   uint16
		want mqtt.Type
	}{{1, 0x7A01, mqtt.PUBACK}, {2, 0x7A02, mqtt.PUBREC}} {
		payload := fmt.Sprintf("the message at QoS %d", m.qos)
		answer, err := publisher.ask(&mqtt.Publish{QoS: m.qos, ID: m.id, Topic: []byte("agents/agent-01/traced"), Payload: []byte(payload)})
		if err != nil {
			return nil, err
		}
		if answer.Kind() != m.want {
			return nil, fmt.Errorf("%s is answered with %s", payload, answer.Kind())
		}
		messages[string(mqtt.AppendAck(nil, m.want, m.id, mqtt.Success, mqtt.V311))] = payload
	}
	return messages, nil
}

// talk is a connection of 3.1.1 on which packets are asked and answered by turns.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func (c *talk) ask(p mqtt.Packet) (mqtt.Packet, error) {
	if _, err := c.Write(p.Append(nil, mqtt.V311)); err != nil {
		return nil, err
	}
	return readPacket(c.r, mqtt.V311)
}

func converse(r ready, id string, who login, clean bool) (*talk, error) {
	conn, err := net.Dial("tcp", r.Addresses["mqtt"])
	if err != nil {
		return nil, err
	}
	c := &talk{conn, bufio.NewReader(conn)}
	err = conn.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = c.ask(&mqtt.Connect{
			Version: mqtt.V311, CleanStart: clean, ClientID: []byte(id), HasUsername: true, Username: []byte(who.Username),
			HasPassword: true, Password: []byte(who.Password),
		})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}
