package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"
)

// model reads frames the slow way, all at once. It returns the payloads, the latest unanswered ping and the code of the
// close frame that ends the connection, 0 for none.
func model(b []byte, limit uint64) (data, ping []byte, code int) {
	var open bool
	var size uint64
	for len(b) >= 2 {
		fin, op, n := b[0]>>7 == 1, b[0]&15, uint64(b[1]&127)
		switch {
		case b[0]&0x70 != 0, b[1]&0x80 == 0, op > 10, op > 2 && op < 8:
			return data, ping, 1002
		case op >= 8 && (!fin || n > 125):
			return data, ping, 1002
		case op == 1:
			return data, ping, 1003
		case op == 0 && !open, op == 2 && open:
			return data, ping, 1002
		}
		at := 2
		switch {
		case n == 126 && len(b) >= 4:
			n, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case n == 127 && len(b) >= 10:
			n, at = binary.BigEndian.Uint64(b[2:]), 10
		case n >= 126:
			return data, ping, 0
		}
		if op < 8 {
			if op == 2 {
				size = 0
			}
			if open = !fin; n > limit || size+n > limit {
				return data, ping, 1009
			}
			size += n
		}
		if len(b) < at+4 {
			return data, ping, 0
		}
		key := b[at : at+4]
		b = b[at+4:]
		k := min(n, uint64(len(b)))
		payload := bytes.Clone(b[:k])
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		b = b[k:]
		if op < 8 {
			data = append(data, payload...)
		}
		if k < n {
			return data, ping, 0
		}
		switch op {
		case 8:
			return data, ping, modelClose(payload)
		case 9:
			ping = payload
		}
	}
	return data, ping, 0
}

func modelClose(p []byte) int {
	if len(p) == 0 {
		return 1000
	}
	if len(p) == 1 {
		return 1002
	}
	code := int(p[0])<<8 | int(p[1])
	known := []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
	if !slices.Contains(known, code) && (code < 3000 || code > 4999) {
		return 1002
	}
	if string(p[2:]) != string([]rune(string(p[2:]))) {
		return 1007
	}
	return code
}

func frameSeeds(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), slices.Concat(frame(0x82, "one"), frame(0x02, "be"), frame(0x89, "ping"), frame(0x80, "tween")))
	f.Add(uint64(3), append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<30), 1, 2, 3, 4))
	f.Add(uint64(4), append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<64-1), 1, 2, 3, 4, 5))
	f.Add(uint64(5), slices.Concat(frame(0x02, string(make([]byte, 3000))), frame(0x80, string(make([]byte, 3000)))))
	f.Add(uint64(6), slices.Concat(frame(0x82, "x"), frame(0x88, "\x03\xe8bye")))
	f.Add(uint64(7), slices.Concat(frame(0x89, ""), frame(0x81, "text")))
	f.Add(uint64(8), frame(0x88, "\x03\xe8\xff"))
	f.Add(uint64(9), []byte{0x82, 0xfe, 0xff})
	f.Add(uint64(10), []byte("\x82\x04keyxdata"))
}

const fuzzLimit = 4096

// FuzzFrames decodes arbitrary bytes, cut at arbitrary places, as the model does.
func FuzzFrames(f *testing.F) {
	frameSeeds(f)
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		wantData, wantPing, wantCode := model(b, fuzzLimit)
		random := rand.New(rand.NewPCG(seed, 0))
		var state frames
		var data []byte
		code := 0
		for rest := bytes.Clone(b); len(rest) > 0 && code == 0; {
			n := 1 + random.IntN(min(len(rest), 1+int(seed%64)))
			got, c := state.decode(rest[:n], fuzzLimit)
			data = append(data, got...)
			if rest = rest[n:]; c != nil {
				code = int(c.code)
			}
			if cap(state.control) > 256 {
				t.Fatalf("%d bytes are kept of a control frame", cap(state.control))
			}
		}
		if !bytes.Equal(data, wantData) || code != wantCode || !bytes.Equal(state.ping, wantPing) {
			t.Errorf("got %x, ping %x, code %d, not %x, ping %x, code %d", data, state.ping, code, wantData, wantPing, wantCode)
		}
	})
}

// FuzzWebSocketFeed sends arbitrary bytes after the upgrade over a real connection: it ends, it feeds what the model
// feeds, and it allocates no more than a little and what was sent.
func FuzzWebSocketFeed(f *testing.F) {
	frameSeeds(f)
	l, err := Listen(Config{Kind: WS, Address: "127.0.0.1:0", MaxMessageBeforeLogin: fuzzLimit})
	must(f, err)
	f.Cleanup(func() { l.Close() })
	ended := make(chan []byte, 1)
	l.Serve(func(Conn) Handler { return &gatherer{ended: ended} })
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		var start, end runtime.MemStats
		want, _, wantCode := model(b, fuzzLimit)
		runtime.ReadMemStats(&start)
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		c := &client{Conn: conn, r: bufio.NewReaderSize(conn, 512), ws: true}
		c.raw(t, []byte(request("GET / HTTP/1.1")))
		res, err := http.ReadResponse(c.r, nil)
		must(t, err)
		res.Body.Close()
		random := rand.New(rand.NewPCG(seed, 1))
		for rest := b; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			if _, err := conn.Write(rest[:n]); err != nil {
				break // it has been closed already, which is judged below
			}
			rest = rest[n:]
		}
		conn.(*net.TCPConn).CloseWrite() //nolint:errcheck // the same
		if _, err := io.ReadAll(c); wantCode != 0 && err != nil {
			t.Errorf("it ended by %v", err)
		}
		got := await(t, ended, "Closed")
		runtime.ReadMemStats(&end)
		if !bytes.Equal(got, want) || c.code != wantCode {
			t.Errorf("fed %x and closed with %d, not %x and %d", got, c.code, want, wantCode)
		}
		if took, bound := end.TotalAlloc-start.TotalAlloc, uint64(256<<10+20*len(b)); took > bound {
			t.Errorf("%d bytes were allocated for %d", took, len(b))
		}
	})
}

// gatherer keeps what it is fed.
type gatherer struct {
	got   []byte
	ended chan<- []byte
}

func (g *gatherer) Feed(p []byte) error {
	g.got = append(g.got, p...)
	return nil
}

func (g *gatherer) Closed(error) { g.ended <- g.got }
