//go:build !race

package transport

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
)

// The race detector makes sync.Pool forget and stacks grow, so all this is measured without it.

func TestWritesDoNotAllocate(t *testing.T) {
	for _, kind := range kinds {
		l, peers := serve(t, Config{Kind: kind}, nil)
		c := dial(t, l)
		p := await(t, peers, "the connection")
		drained := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, c.Conn)
			drained <- err
		}()
		b := []byte("some bytes")
		if n := testing.AllocsPerRun(1000, func() { _, _ = p.TryWrite(b) }); n != 0 {
			t.Errorf("%s: TryWrite: %v", kind, n)
		}
		vec := make(net.Buffers, 2)
		if n := testing.AllocsPerRun(1000, func() {
			vec = append(vec[:0], b, b)
			_ = p.Write(vec)
		}); n != 0 {
			t.Errorf("%s: Write: %v", kind, n)
		}
		p.Shutdown()
		must(t, await(t, drained, "the end"))
	}
}

// Reading allocates nothing of its own: neither what fits the idle buffer nor what takes a pooled one.
func TestReadsDoNotAllocate(t *testing.T) {
	for _, kind := range kinds {
		for _, size := range []int{20, 511, 512, 20_000} {
			got, want := 0, make(chan int, 1)
			reached := make(chan struct{}, 1)
			next := 0
			l, peers := serve(t, Config{Kind: kind}, func(_ *peer, b []byte) error {
				if next == 0 {
					next = <-want
				}
				if got += len(b); got == next {
					got, next = 0, 0
					reached <- struct{}{}
				}
				return nil
			})
			c := dial(t, l)
			await(t, peers, "the connection")
			sent := make([]byte, size)
			if kind.webSocket() {
				sent = frame(0x82, string(sent))
			}
			n := testing.AllocsPerRun(500, func() {
				want <- size
				c.Conn.Write(sent) //nolint:errcheck // if it fails nothing is reached
				<-reached
			})
			own := 0.0
			if kind.secure() {
				own = 4 // crypto/tls makes one small thing each time it turns to the socket
			}
			if n > own {
				t.Errorf("%s, %d bytes: %v", kind, size, n)
			}
		}
	}
}

// idleClients makes this binary hold connections for TestIdleMemory: kind, address and number, until its input ends.
const idleClients = "TRANSPORT_IDLE_CLIENTS"

// What a connection takes that does nothing, the clients being in another process.
func TestIdleMemory(t *testing.T) {
	if kind := os.Getenv(idleClients); kind != "" {
		holdConnections(t, Kind(kind))
		return
	}
	for i, kind := range kinds {
		bound := []int64{7 << 10, 16 << 10, 7 << 10, 16 << 10}[i]
		t.Run(string(kind), func(t *testing.T) {
			const connections = 400
			_, err := authorityFiles()
			must(t, err)
			l, peers := serve(t, Config{Kind: kind}, nil)
			before := inUse()
			stop := startClients(t, l, connections)
			held := make([]*peer, connections)
			for i := range held {
				held[i] = await(t, peers, "a connection")
				held[i].fed = nil // the test's own, and large
			}
			took := (inUse() - before) / connections
			t.Logf("%d bytes", took)
			if took > bound {
				t.Errorf("a connection takes %d bytes, more than %d", took, bound)
			}
			runtime.KeepAlive(held)
			stop()
			for _, p := range held {
				await(t, p.closed, "Closed")
			}
		})
	}
}

// inUse is the memory of the heap and the stacks.
func inUse() int64 {
	var m runtime.MemStats
	for range 3 { // sync.Pool needs two to forget, and stacks shrink by half at each
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// startClients opens n connections from another process; stop ends it.
func startClients(t *testing.T, l *Listener, n int) (stop func()) {
	t.Helper()
	files, err := authorityFiles()
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleMemory$")
	cmd.Env = append(os.Environ(), idleClients+"="+string(l.cfg.Kind),
		"TRANSPORT_ADDRESS="+l.Addr().String(), "TRANSPORT_CONNECTIONS="+strconv.Itoa(n), "TRANSPORT_CA="+files[2])
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	return func() {
		in.Close() //nolint:errcheck // Wait tells
		if err := cmd.Wait(); err != nil {
			t.Errorf("the clients: %v: %s", err, out.Bytes())
		}
	}
}

func holdConnections(t *testing.T, kind Kind) {
	n, err := strconv.Atoi(os.Getenv("TRANSPORT_CONNECTIONS"))
	must(t, err)
	for range n {
		dialAt(t, kind, os.Getenv("TRANSPORT_ADDRESS"), trusting(t, os.Getenv("TRANSPORT_CA")))
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	must(t, err)
}
