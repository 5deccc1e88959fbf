package crash

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// call is a system call of a trace. Its times are places in the trace: what strace has written before was before.
type call struct {
	name              string
	path              string // of its first argument
	data              []byte // of its buffers, as far as they were recorded
	result            int
	entered, returned int
}

func (c *call) String() string {
	return fmt.Sprintf("line %d to %d: %s(%s) = %d", c.entered/2, c.returned/2, c.name, c.path, c.result)
}

var (
	// thread, time, then "name(arguments) = result", "name(arguments <unfinished ...>" or "<... name resumed>arguments) = result"
	traceLine = regexp.MustCompile(`^(\d+) +\d+\.\d+ (?:(\w+)\(|<\.\.\. (\w+) resumed>)(.*)$`)
	resultOf  = regexp.MustCompile(`^(.*)\) += (-?\d+)`)
	pathOf    = regexp.MustCompile(`^\d+<((?:\\x[0-9a-f]{2})*)>`)
	bufferOf  = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
)

// parseTrace reads what strace -f -ttt -y -xx has written. A call that has not returned at the end returns after it.
func parseTrace(r io.Reader) (calls []*call, err error) {
	const end = 1 << 60
	open := make(map[string]*call) // by thread
	texts := make(map[*call]string)
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		m := traceLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue // a signal, an exit
		}
		thread, name, resumed, text := m[1], m[2], m[3], m[4]
		c := open[thread]
		if resumed == "" {
			c = &call{name: name, entered: 2 * n, returned: end}
			calls, open[thread] = append(calls, c), c
		} else if c == nil || c.name != resumed {
			return nil, fmt.Errorf("line %d: %s resumes, but was not entered", n, resumed)
		}
		if rest, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
			texts[c] += rest
			continue
		}
		if end := resultOf.FindStringSubmatch(text); end != nil {
			c.result, _ = strconv.Atoi(end[2])
			text, c.returned = end[1], 2*n+1
			delete(open, thread)
		}
		texts[c] += text
	}
	for c, text := range texts {
		if m := pathOf.FindStringSubmatch(text); m != nil {
			c.path = string(unhex(m[1]))
		}
		for _, m := range bufferOf.FindAllStringSubmatch(text, -1) {
			c.data = append(c.data, unhex(m[1])...)
		}
	}
	return calls, nil
}

// unhex reads \x61\x62.
func unhex(s string) (b []byte) {
	for ; len(s) >= 4; s = s[4:] {
		n, _ := strconv.ParseUint(s[2:4], 16, 8)
		b = append(b, byte(n))
	}
	return b
}

// syncedFirst looks for the proof that a message was on disk when it was acknowledged: after a read returned it, a write
// that held it to a file of the log, a sync of that file that was entered later, and returned before a write to the socket
// that holds the acknowledgement was entered.
func syncedFirst(calls []*call, payload, ack []byte) error {
	first := func(from int, ok func(*call) bool) *call {
		i := slices.IndexFunc(calls, func(c *call) bool { return c.entered >= from && c.result >= 0 && ok(c) })
		if i < 0 {
			return nil
		}
		return calls[i]
	}
	writes := func(c *call) bool { return strings.HasPrefix(c.name, "write") || strings.HasPrefix(c.name, "send") }
	socket := func(c *call) bool { return strings.HasPrefix(c.path, "socket:") || strings.HasPrefix(c.path, "TCP:") }

	arrived := first(0, func(c *call) bool {
		return (c.name == "read" || c.name == "recvfrom") && socket(c) && bytes.Contains(c.data, payload)
	})
	if arrived == nil {
		return fmt.Errorf("the message did not arrive")
	}
	acked := first(arrived.returned, func(c *call) bool { return writes(c) && c.path == arrived.path && bytes.Contains(c.data, ack) })
	if acked == nil {
		return fmt.Errorf("arrived (%v), and was not acknowledged", arrived)
	}
	written := first(arrived.returned, func(c *call) bool {
		return writes(c) && strings.HasSuffix(c.path, ".log") && bytes.Contains(c.data, payload)
	})
	if written == nil || written.returned > acked.entered {
		return fmt.Errorf("acknowledged (%v) before it was written to a log (%v)", acked, written)
	}
	synced := first(written.returned, func(c *call) bool {
		return (c.name == "fdatasync" || c.name == "fsync") && c.path == written.path && c.result == 0
	})
	if synced == nil || synced.returned > acked.entered {
		return fmt.Errorf("written (%v), then acknowledged (%v) before a sync of that log had returned (%v)", written, acked, synced)
	}
	return nil
}

// TestTraceRecorded reads recorded traces: of a server that syncs, and of one that does not wait for it.
func TestTraceRecorded(t *testing.T) {
	for name, want := range map[string]string{
		"synced":      "",
		"interleaved": "",
		"not-synced":  "before a sync of that log had returned (<nil>)",
		"sync-late":   "before a sync of that log had returned (line 5 to 7: fdatasync",
		"sync-early":  "before a sync of that log had returned (<nil>)",
		"other-file":  "before a sync of that log had returned (<nil>)",
		"sync-failed": "before a sync of that log had returned (<nil>)",
		"not-written": "before it was written to a log (<nil>)",
		"no-ack":      "was not acknowledged",
	} {
		f, err := os.Open("testdata/" + name + ".strace")
		if err != nil {
			t.Fatal(err)
		}
		calls, err := parseTrace(f)
		f.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = syncedFirst(calls, []byte("proof"), []byte{0x40, 2, 0x12, 0x34})
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
