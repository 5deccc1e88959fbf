package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestEcho(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind}, echo)
			c := dial(t, l)
			p := await(t, peers, "the connection")
			if p.Kind() != kind || p.RemoteAddr().String() != c.LocalAddr().String() {
				t.Errorf("it is %s from %s", p.Kind(), p.RemoteAddr())
			}
			for _, n := range []int{1, 511, 512, 513, 16 << 10, 32 << 10, 32<<10 + 513, 3 << 20} {
				sent := pattern(n)
				wrote := make(chan error, 1)
				go func() {
					_, err := c.Write(sent)
					wrote <- err
				}()
				got := make([]byte, n)
				_, err := io.ReadFull(c, got)
				must(t, err)
				must(t, await(t, wrote, "the write"))
				if !bytes.Equal(got, sent) {
					t.Fatalf("%d bytes did not come back as they were", n)
				}
			}
			c.Close()
			if err := await(t, p.closed, "Closed"); err != io.EOF {
				t.Errorf("closed by %v", err)
			}
		})
	}
}

func TestWriteOneLargeBatch(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind}, nil)
			c := dial(t, l)
			p := await(t, peers, "the connection")
			want := pattern(3<<20 + 5)
			bufs := net.Buffers{want[:1], want[1:1], want[1:700], want[700 : 100<<10], want[100<<10:]}
			wrote := make(chan error, 1)
			go func() { wrote <- p.Write(bufs) }()
			got := make([]byte, len(want))
			_, err := io.ReadFull(c, got)
			must(t, err)
			must(t, await(t, wrote, "the write"))
			if !bytes.Equal(got, want) {
				t.Error("other bytes came")
			}
		})
	}
}

// The peer sends without end while the last words are on their way.
func TestShutdownDeliversTheLastBytes(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l, peers := serve(t, Config{Kind: kind}, func(*peer, []byte) error { return nil })
			c := dial(t, l)
			p := await(t, peers, "the connection")
			flood := make(chan error, 1)
			go func() {
				for {
					if _, err := c.Write(make([]byte, 1000)); err != nil {
						flood <- err
						return
					}
				}
			}()
			last := pattern(100_000)
			wrote := make(chan error, 1)
			go func() {
				err := p.Write(net.Buffers{last})
				p.Shutdown()
				wrote <- err
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, last) {
				t.Errorf("%d bytes and %v arrived", len(got), err)
			}
			must(t, await(t, wrote, "the write"))
			if kind.webSocket() && c.code != 1000 {
				t.Errorf("closed with %d", c.code)
			}
			c.Close()
			await(t, flood, "the flood's end")
			if err := await(t, p.closed, "Closed"); err != net.ErrClosed {
				t.Errorf("closed by %v", err)
			}
			if err := p.Write(net.Buffers{last}); err == nil {
				t.Error("it writes on after Shutdown")
			}
		})
	}
}

func TestShutdownClosesAPeerThatStays(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind, DiscardTime: 20 * time.Millisecond, DiscardBytes: 1000}, nil)
			c := dial(t, l)
			p := await(t, peers, "the connection")
			p.Shutdown()
			p.Shutdown()
			_, err := c.Write(make([]byte, 5000))
			must(t, err)
			if err := await(t, p.closed, "Closed"); err != net.ErrClosed {
				t.Errorf("closed by %v", err)
			}
			if len(p.fed) > 0 {
				t.Error("fed after Shutdown")
			}
		})
	}
}

// Feed refuses, and another goroutine writes why.
func TestFeedErrorLeavesTimeForTheLastWrite(t *testing.T) {
	refused := errors.New("refused")
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			written := make(chan struct{})
			l, peers := serve(t, Config{Kind: kind}, func(p *peer, _ []byte) error {
				go func() {
					<-written
					_ = p.Write(net.Buffers{[]byte("why")})
					p.Shutdown()
				}()
				return refused
			})
			c := dial(t, l)
			p := await(t, peers, "the connection")
			for range 10 { // more than the one that is refused
				_, err := c.Write(make([]byte, 600))
				must(t, err)
			}
			close(written)
			got, err := io.ReadAll(c)
			if err != nil || string(got) != "why" {
				t.Errorf("%q and %v arrived", got, err)
			}
			c.Close()
			if err := await(t, p.closed, "Closed"); err != refused {
				t.Errorf("closed by %v", err)
			}
		})
	}
}

func TestFeedErrorWithoutAnOwner(t *testing.T) {
	refused := errors.New("refused")
	cfg := Config{Kind: MQTT, DiscardTime: 20 * time.Millisecond}
	l, peers := serve(t, cfg, func(*peer, []byte) error { return refused })
	c := dial(t, l)
	_, err := c.Write([]byte("x"))
	must(t, err)
	if err := await(t, await(t, peers, "the connection").closed, "Closed"); err != refused {
		t.Errorf("closed by %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client sees %v", err)
	}
}

func TestTryWrite(t *testing.T) {
	l, peers := serve(t, Config{Kind: MQTT}, nil)
	c := dial(t, l)
	p := await(t, peers, "the connection")
	chunk := pattern(64 << 10)
	var want []byte
	for {
		n, err := p.TryWrite(chunk)
		must(t, err)
		want = append(want, chunk[:n]...)
		if n == 0 {
			break // the kernel takes no more, and it did not wait
		}
		if len(want) > 1<<30 {
			t.Fatal("it never ends")
		}
	}
	wrote := make(chan error, 1)
	go func() { wrote <- p.Write(net.Buffers{chunk}) }()
	want = append(want, chunk...)
	got := make([]byte, len(want))
	_, err := io.ReadFull(c, got)
	must(t, err)
	must(t, await(t, wrote, "the write"))
	if !bytes.Equal(got, want) {
		t.Error("other bytes came")
	}
	if n, err := p.TryWrite(nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	p.Shutdown()
	if _, err := p.TryWrite(chunk); err == nil {
		t.Error("it writes after Shutdown")
	}
	must(t, p.Close())
	if _, err := p.TryWrite(chunk); err == nil {
		t.Error("it writes after Close")
	}
}

func TestTryWriteCannotTry(t *testing.T) {
	for _, kind := range []Kind{MQTTS, WS, WSS} {
		l, peers := serve(t, Config{Kind: kind}, nil)
		dial(t, l)
		if n, err := await(t, peers, "the connection").TryWrite([]byte("x")); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", kind, n, err)
		}
	}
}

// One peer does not read: its Write ends by the deadline, another's bytes flow meanwhile.
func TestStuckPeer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			timeout := 2 * time.Second
			l, peers := serve(t, Config{Kind: kind, WriteTimeout: timeout}, echo)
			dial(t, l)
			stuck := await(t, peers, "the connection")
			ended := make(chan error, 1)
			go func() {
				for {
					if err := stuck.Write(net.Buffers{make([]byte, 1<<20)}); err != nil {
						ended <- err
						return
					}
				}
			}()
			c := dial(t, l)
			for i := 0; len(ended) == 0; i++ {
				_, err := c.Write([]byte{byte(i)})
				must(t, err)
				var b [1]byte
				start := time.Now()
				_, err = io.ReadFull(c, b[:])
				must(t, err)
				if took := time.Since(start); b[0] != byte(i) || took > timeout/2 {
					t.Fatalf("byte %d came back as %d after %v", byte(i), b[0], took)
				}
			}
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the stuck write ended by %v", err)
			}
		})
	}
}

// A blocked Feed stops the reading: the sender feels it.
func TestBackPressure(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			release := make(chan struct{})
			got := 0
			l, peers := serve(t, Config{Kind: kind}, func(_ *peer, b []byte) error {
				<-release
				got += len(b)
				return nil
			})
			c := dial(t, l)
			p := await(t, peers, "the connection")
			sent := 0
			must(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
			for {
				n, err := c.Conn.Write(frame(0x82, string(make([]byte, 10_000))))
				sent += n
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					break
				}
				if sent > 1<<30 {
					t.Fatal("no back pressure")
				}
			}
			close(release)
			c.Close()
			await(t, p.closed, "Closed")
			if kind == MQTT && got != sent {
				t.Errorf("%d of %d bytes were fed", got, sent)
			}
		})
	}
}

func TestCloseEndsAndWaitsForEverything(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind}, nil)
			c, err := net.Dial("tcp", l.Addr().String()) // stays in its handshake, if there is one
			must(t, err)
			defer c.Close()
			if kind == MQTT {
				await(t, peers, "the connection")
			}
			dial(t, l)
			idle := await(t, peers, "the connection")
			dial(t, l)
			stuck := await(t, peers, "the connection")
			ended := make(chan error, 1)
			go func() {
				for {
					if err := stuck.Write(net.Buffers{make([]byte, 1<<20)}); err != nil {
						ended <- err
						return
					}
				}
			}()
			dial(t, l)
			leaving := await(t, peers, "the connection")
			leaving.Shutdown()
			must(t, l.Close())
			for _, p := range []*peer{idle, stuck, leaving} {
				if len(p.closed) != 1 {
					t.Error("Close returned before Closed")
				} else if err := <-p.closed; err != net.ErrClosed {
					t.Errorf("closed by %v", err)
				}
			}
			if err := await(t, ended, "the stuck write"); err == nil {
				t.Error("the stuck write succeeded")
			}
			if s := l.Stats(); s.Open != 0 || s.Pending != 0 {
				t.Errorf("left: %+v", s)
			}
			must(t, l.Close())
		})
	}
}

// The pooled buffer is given back as soon as nothing is left to read: the read that would wait says so instead.
func TestPollingSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer c.Close()
	nc, err := ln.Accept()
	must(t, err)
	defer nc.Close()
	s, err := newSocket(nc.(*net.TCPConn))
	must(t, err)
	s.polling = true
	b := make([]byte, 10)
	if n, err := s.Read(b); n != 0 || err != (errWouldBlock{}) {
		t.Fatalf("nothing there: %d, %v", n, err)
	}
	_, err = c.Write([]byte("abc"))
	must(t, err)
	s.polling = false
	_, err = io.ReadFull(s, b[:1])
	must(t, err)
	s.polling = true
	if n, err := s.Read(b); err != nil || string(b[:n]) != "bc" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	c.Close()
	s.polling = false
	if n, err := s.Read(b); n != 0 || err != io.EOF {
		t.Fatalf("at the end: %d, %v", n, err)
	}
	s.polling = true
	if n, err := s.Read(b); n != 0 || err != io.EOF {
		t.Fatalf("at the end, polling: %d, %v", n, err)
	}
}

// The last words of TLS and WebSocket cannot be written, for the kernel's buffers are full: DiscardTime bounds the wait.
func TestShutdownOfAPeerThatDoesNotRead(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			l, peers := serve(t, Config{Kind: kind, DiscardTime: 50 * time.Millisecond}, nil)
			dial(t, l)
			p := await(t, peers, "the connection")
			raw := p.Conn.(*conn).raw
			for _, n := range []int{64 << 10, 1} { // what the kernel moves in between makes room for a little more
				for idle := 0; idle < 1000; {
					k, err := raw.tryWrite(make([]byte, n))
					must(t, err)
					if idle++; k > 0 {
						idle = 0
					}
				}
			}
			start := time.Now()
			p.Shutdown()
			await(t, p.closed, "Closed")
			if took := time.Since(start); took > 4*time.Second { // crypto/tls would give close_notify 5 s
				t.Errorf("it took %v", took)
			}
		})
	}
}

// What waits in the socket as many small TLS records is read into the pooled buffer, not cut at 512 bytes.
func TestBurstOfSmallRecords(t *testing.T) {
	const records, size = 20, 1000
	release, done := make(chan struct{}), make(chan struct{})
	feeds, got := 0, 0
	l, _ := serve(t, Config{Kind: MQTTS}, func(_ *peer, b []byte) error {
		<-release
		feeds++
		if got += len(b); got == records*size {
			close(done)
		}
		return nil
	})
	c := dial(t, l)
	for range records {
		_, err := c.Write(make([]byte, size))
		must(t, err)
	}
	close(release)
	await(t, done, "all bytes")
	if feeds > records+1 {
		t.Errorf("%d records were fed in %d pieces", records, feeds)
	}
}

// An owner that ends a connection late, or twice, starts nothing any more.
func TestShutdownAfterTheEnd(t *testing.T) {
	for _, kind := range kinds {
		l, peers := serve(t, Config{Kind: kind}, nil)
		c := dial(t, l)
		p := await(t, peers, "the connection")
		c.Conn.Close()
		await(t, p.closed, "Closed")
		p.Shutdown()
		p.Close() //nolint:errcheck // it may be closed already
		if p.Conn.(*conn).sent != nil {
			t.Errorf("%s: it says its last words after Closed", kind)
		}
		if err := p.Write(net.Buffers{[]byte("x")}); err == nil {
			t.Errorf("%s: it writes after Closed", kind)
		}
	}
}
