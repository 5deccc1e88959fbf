package stateful

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
)

// tamper changes what comes from the server, packet by packet, before anybody sees it: what the model must find. nil: nothing.
type tamper func(p *peer, packet mqtt.Packet) []mqtt.Packet

// link is a connection of one peer to the server.
type link struct {
	m      *model
	peer   *peer
	conn   net.Conn
	tamper tamper
	done   chan struct{} // closed when nothing more comes

	mu   sync.Mutex // one operation at a time; the model hears of bytes in the order in which they are written
	held []byte     // waits for the next operation
}

func dial(m *model, p *peer, address string, t tamper) (*link, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	l := &link{m: m, peer: p, conn: conn, tamper: t, done: make(chan struct{})}
	go l.read()
	return l, nil
}

// write sends bytes in so many pieces, or keeps them for the next write.
func (l *link) write(b []byte, pieces int, join bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m.sending(l.peer, b)
	l.held = append(l.held, b...)
	if join {
		return
	}
	l.flush(pieces)
}

func (l *link) flush(pieces int) {
	out := l.held
	l.held = nil
	l.conn.SetWriteDeadline(time.Now().Add(patience)) //nolint:errcheck // the write says so
	for ; pieces > 1 && len(out) > 1; pieces-- {
		n := max(1, len(out)/pieces)
		l.conn.Write(out[:n]) //nolint:errcheck // the server may have closed: the reader says so
		out = out[n:]
	}
	l.conn.Write(out) //nolint:errcheck // the same
}

// push sends what waits.
func (l *link) push() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush(1)
}

// close ends the connection from our side.
func (l *link) close() {
	l.m.leaving(l.peer)
	l.conn.Close()
	<-l.done
}

func (l *link) read() {
	defer close(l.done)
	defer l.conn.Close()
	d := mqtt.Decoder{}
	var partial []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := l.conn.Read(buf)
		partial = append(partial, buf[:n]...)
		d.Version = l.version()
		rest, ok := l.packets(&d, partial)
		if !ok {
			l.m.over(l.peer, 0, false)
			return
		}
		if err != nil {
			l.m.over(l.peer, len(rest), errors.Is(err, io.EOF))
			return
		}
		partial = append(partial[:0], rest...)
	}
}

func (l *link) version() mqtt.Version {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return max(l.peer.version, mqtt.V31)
}

// packets judges all whole packets.
func (l *link) packets(d *mqtt.Decoder, b []byte) (rest []byte, ok bool) {
	for {
		h, n, err := mqtt.ReadHeader(b)
		if err == nil && (n == 0 || len(b) < n+h.Length) {
			return b, true
		}
		var packet mqtt.Packet
		if err == nil {
			packet, err = d.Decode(h, b[n:n+h.Length])
		}
		if err != nil {
			if l.refusedOddly(b) {
				return nil, true
			}
			l.m.mu.Lock()
			l.m.fail(l.peer, "the server sent what is no packet: %v: %x", err, b[:min(len(b), 40)])
			l.m.mu.Unlock()
			return nil, false
		}
		all := []mqtt.Packet{packet}
		if l.tamper != nil {
			all = l.tamper(l.peer, packet)
		}
		for _, k := range all {
			for _, answer := range l.m.came(l.peer, k) {
				l.write(answer.Append(nil, l.peer.version), 1, false)
			}
		}
		b = b[n+h.Length:]
	}
}

// refusedOddly: the CONNECT was so broken that its version cannot be known, and the answer is in the other form.
func (l *link) refusedOddly(b []byte) bool {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return !l.peer.accepted && l.peer.silent && len(b) >= 4 && b[0] == 0x20 && b[3] != 0
}
