// Program paho has Eclipse Paho for Go do against a running server what MQTT is there for. It prints a line for each thing
// that held, and ends with 1 at the first that did not.
//
//	paho 3.1.1|5.0 URL CA_FILE USERNAME PASSWORD
//
// URL is mqtts://HOST:PORT or wss://HOST:PORT/. The user may publish and subscribe everywhere.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"
)

// patience is how long anything may take that is waited for.
const patience = 15 * time.Second

// message is what a client received.
type message struct {
	topic   string
	payload []byte
	qos     byte
	retain  bool
}

// options are those of a connection.
type options struct {
	id     string
	keep   bool // its session outlives it
	will   string
	notify chan<- bool // is told by the first CONNACK whether there was a session
}

// client is a connection by one of the two libraries. It reconnects by itself.
type client interface {
	subscribe(filter string, qos byte) error
	publish(m message) error
	drop()  // the TCP connection ends without a DISCONNECT
	leave() // a DISCONNECT
}

// library makes connections. What they receive goes into the channel.
type library interface {
	connect(o options, received chan<- message) (client, error)
}

// server is where to connect and as whom.
type server struct {
	url                *url.URL
	tls                *tls.Config
	username, password string
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: paho 3.1.1|5.0 URL CA_FILE USERNAME PASSWORD")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
}

func run(version, address, caFile, username, password string) error {
	s := &server{tls: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}, username: username, password: password}
	var err error
	if s.url, err = url.Parse(address); err != nil {
		return err
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	s.tls.RootCAs.AppendCertsFromPEM(pem)
	var l library
	switch version {
	case "3.1.1":
		l = &version3{s}
	case "5.0":
		l = &version5{s}
	default:
		return fmt.Errorf("there is no version %q here", version)
	}
	checks := []struct {
		name string
		do   func(library) error
	}{
		{"QoS 0, 1 and 2", everyQoS},
		{"retained", retained},
		{"will", will},
		{"persistent session", persistent},
		{"1 MiB", large},
	}
	for _, c := range checks {
		if err := c.do(l); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Printf("ok: %s %s: %s\n", version, s.url.Scheme, c.name)
	}
	if five, ok := l.(*version5); ok {
		if err := five.properties(); err != nil {
			return fmt.Errorf("properties: %w", err)
		}
		fmt.Printf("ok: %s %s: properties\n", version, s.url.Scheme)
	}
	return nil
}

// pair is one client that receives from a filter and one that sends.
func pair(l library, filter string) (from, to client, received chan message, err error) {
	received = make(chan message, 100)
	if to, err = l.connect(options{}, received); err != nil {
		return nil, nil, nil, err
	}
	if err = to.subscribe(filter, 2); err != nil {
		return nil, nil, nil, err
	}
	from, err = l.connect(options{}, nil)
	return from, to, received, err
}

// expect waits for messages, each once and in order.
func expect(received <-chan message, want ...message) error {
	for i, w := range want {
		select {
		case m := <-received:
			if m.topic != w.topic || !bytes.Equal(m.payload, w.payload) || m.qos != w.qos || m.retain != w.retain {
				return fmt.Errorf("message %d is %s, want %s", i+1, m, w)
			}
		case <-time.After(patience):
			return fmt.Errorf("message %d did not come: %s", i+1, w)
		}
	}
	return nil
}

func (m message) String() string {
	return fmt.Sprintf("%q: %.40q (%d bytes) at QoS %d, retain %t", m.topic, m.payload, len(m.payload), m.qos, m.retain)
}

func everyQoS(l library) error {
	from, to, received, err := pair(l, "qos/#")
	if err != nil {
		return err
	}
	defer from.leave()
	defer to.leave()
	var want []message
	for qos := range byte(3) {
		for i := range 20 {
			m := message{topic: fmt.Sprintf("qos/%d", qos), payload: fmt.Append(nil, i), qos: qos}
			if err := from.publish(m); err != nil {
				return err
			}
			want = append(want, m)
		}
	}
	return expect(received, want...)
}

func retained(l library) error {
	from, err := l.connect(options{}, nil)
	if err != nil {
		return err
	}
	defer from.leave()
	m := message{topic: "retained/a", payload: []byte("kept"), qos: 1, retain: true}
	if err := from.publish(m); err != nil {
		return err
	}
	received := make(chan message, 10)
	to, err := l.connect(options{}, received)
	if err != nil {
		return err
	}
	defer to.leave()
	if err := to.subscribe("retained/+", 1); err != nil {
		return err
	}
	if err := expect(received, m); err != nil {
		return err
	}
	empty := message{topic: m.topic, qos: 1, retain: true}
	if err := from.publish(empty); err != nil {
		return err
	}
	if err := to.subscribe("retained/#", 1); err != nil { // of what was there it would bring it again
		return err
	}
	last := message{topic: "retained/last", payload: []byte("last"), qos: 1}
	if err := from.publish(last); err != nil {
		return err
	}
	empty.retain = false // for who had subscribed it is live
	return expect(received, empty, last)
}

func will(l library) error {
	received := make(chan message, 10)
	to, err := l.connect(options{}, received)
	if err != nil {
		return err
	}
	defer to.leave()
	if err := to.subscribe("wills/#", 1); err != nil {
		return err
	}
	polite, err := l.connect(options{will: "wills/polite"}, nil)
	if err != nil {
		return err
	}
	polite.leave()
	broken, err := l.connect(options{will: "wills/broken"}, nil)
	if err != nil {
		return err
	}
	defer broken.leave()
	broken.drop()
	return expect(received, message{topic: "wills/broken", payload: []byte("gone"), qos: 1})
}

// persistent: what comes while the connection is broken is delivered when the library has reconnected, without another
// SUBSCRIBE and once.
func persistent(l library) error {
	from, err := l.connect(options{}, nil)
	if err != nil {
		return err
	}
	defer from.leave()
	received, present := make(chan message, 10), make(chan bool, 10)
	kept := options{id: rand.Text(), keep: true, notify: present}
	to, err := l.connect(kept, received)
	if err != nil {
		return err
	}
	if <-present {
		return errors.New("there was a session before")
	}
	if err := to.subscribe("kept/#", 2); err != nil {
		return err
	}
	to.drop()
	var want []message
	for qos := range byte(2) {
		m := message{topic: "kept/a", payload: fmt.Append(nil, "dropped", qos), qos: qos + 1}
		if err := from.publish(m); err != nil {
			return err
		}
		want = append(want, m)
	}
	if err := expect(received, want...); err != nil {
		return err
	}
	// What is shown may not be acknowledged yet: it would come again, to a client that has forgotten it. Behind a handshake of the
	// client's own it is.
	if err := to.publish(message{topic: "elsewhere", qos: 2}); err != nil {
		return err
	}
	to.leave()
	away := message{topic: "kept/a", payload: []byte("away"), qos: 2}
	if err := from.publish(away); err != nil {
		return err
	}
	again, err := l.connect(kept, received)
	if err != nil {
		return err
	}
	defer again.leave()
	if !<-present {
		return errors.New("there was no session")
	}
	last := message{topic: "kept/a", payload: []byte("last"), qos: 1}
	if err := from.publish(last); err != nil {
		return err
	}
	return expect(received, away, last)
}

// large sends as much as the packet limit of 1 MiB has room for.
func large(l library) error {
	from, to, received, err := pair(l, "large/#")
	if err != nil {
		return err
	}
	defer from.leave()
	defer to.leave()
	body := make([]byte, 1<<20-32)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	for qos := range byte(3) {
		m := message{topic: "large/a", payload: body, qos: qos}
		if err := from.publish(m); err != nil {
			return err
		}
		if err := expect(received, m); err != nil {
			return err
		}
	}
	return nil
}
