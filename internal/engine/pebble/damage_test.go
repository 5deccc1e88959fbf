package pebble

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/engine"
)

const messages = 100

func message(i int) engine.Operation {
	body := fmt.Sprint(i, " ", strings.Repeat("x", 200+i%100))
	return engine.Operation{Op: engine.OpAppend, Filters: []engine.Filter{1}, Entry: &engine.Entry{Body: []byte(body)}}
}

func wait(t testing.TB, s *Store, operations ...engine.Operation) {
	t.Helper()
	if err := s.wait(&engine.Batch{Organization: 1, Operations: operations}); err != nil {
		t.Fatal(err)
	}
}

// filled is what a store of some tables and messages leaves, closed in good order or after a crash, when its last
// messages are in a log only.
func filled(t *testing.T, crash bool) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	s, err := Open(Options{Dir: "store", FS: fs, memTable: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, s, engine.Operation{Op: engine.OpFilter, Filter: 1, Text: "#"})
	for i := range messages {
		wait(t, s, message(i))
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if crash {
		return crashed
	}
	return fs
}

// damage changes the last file whose name begins or ends like that, and tells its name.
func damage(t *testing.T, fs *vfs.MemFS, like string, change func([]byte) []byte) string {
	t.Helper()
	names, err := fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	slices.Reverse(names)
	i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, like) || strings.HasSuffix(n, like) })
	if i < 0 {
		t.Fatalf("no file like %s among %v", like, names)
	}
	name := fs.PathJoin("store", names[i])
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close(), fs.Remove(name)); err != nil {
		t.Fatal(err)
	}
	if data = change(data); data == nil {
		return name
	}
	w, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

var damages = map[string]func([]byte) []byte{
	"half":    func(b []byte) []byte { return b[:len(b)/2] },
	"empty":   func([]byte) []byte { return []byte{} },
	"a bit":   flip,
	"removed": func([]byte) []byte { return nil },
}

// flip turns a bit over, if there is one.
func flip(b []byte) []byte {
	if len(b) > 0 {
		b[len(b)/2] ^= 0x10
	}
	return b
}

// What becomes of a store with a damaged file.
const (
	refused  = "refused"  // Open says that it cannot be opened, and to restore it
	whole    = "whole"    // everything is there
	reported = "reported" // it opens, and who reads what is damaged is told, and the store fails
	start    = "start"    // the messages up to some one are there: the damage looks like the end of what was written before a crash
)

// TestDamaged states what each damage does. Never is a message wrong, or missing from the middle. The last log is the one
// place where messages can be lost in silence: Pebble takes what it cannot read there, in the last 32 KiB, for the torn
// end that a crash leaves. A store that was closed has nothing in a log.
func TestDamaged(t *testing.T) {
	for _, test := range []struct {
		file, damage string
		crash        bool
		want         []string
	}{
		{".sst", "half", false, []string{refused}},
		{".sst", "empty", false, []string{refused}},
		{".sst", "removed", false, []string{refused}},
		{".sst", "a bit", false, []string{reported, refused}},
		{"MANIFEST-", "half", false, []string{refused}},
		{"MANIFEST-", "empty", false, []string{refused}},
		{"MANIFEST-", "a bit", false, []string{refused}},
		{"MANIFEST-", "removed", false, []string{refused}},
		{"marker.manifest.", "removed", false, []string{refused}},
		{"marker.manifest.", "removed", true, []string{refused}},
		{"marker.format-version.", "removed", false, []string{refused}},
		{"FORMAT", "empty", false, []string{refused}},
		{"FORMAT", "removed", false, []string{whole}},
		{"LOCK", "removed", false, []string{whole}},
		{"OPTIONS-", "removed", false, []string{whole}},
		{".log", "half", false, []string{whole}},
		{".log", "removed", false, []string{whole}},
		{".log", "half", true, []string{start}},
		{".log", "a bit", true, []string{start, refused}},
		{".log", "removed", true, []string{start}},
	} {
		t.Run(fmt.Sprint(test.file, " ", test.damage, " ", test.crash), func(t *testing.T) {
			fs := filled(t, test.crash)
			name := damage(t, fs, test.file, damages[test.damage])
			if got := become(t, fs); !slices.Contains(test.want, got) {
				t.Errorf("%s, %s: %s, want %v", name, test.damage, got, test.want)
			}
		})
	}
}

// TestManifest cuts the list of tables, and turns a bit of it over, anywhere: it is always refused. Pebble by itself opens
// half of these, with messages missing from the middle of the log.
func TestManifest(t *testing.T) {
	const places = 12
	for i := range places {
		for name, change := range map[string]func([]byte) []byte{
			"cut":   func(b []byte) []byte { return b[:len(b)*i/places] },
			"a bit": func(b []byte) []byte { b[len(b)*i/places] ^= 0x10; return b },
		} {
			fs := filled(t, i%2 == 0)
			damage(t, fs, manifestPrefix, change)
			if got := become(t, fs); got != refused {
				t.Errorf("%s at %d/%d: %s", name, i, places, got)
			}
		}
	}
}

// become opens a store and reads everything.
func become(t *testing.T, fs *vfs.MemFS) string {
	t.Helper()
	s, err := Open(Options{Dir: "store", FS: fs, memTable: 16 << 10})
	if err != nil {
		if !strings.Contains(err.Error(), "cannot be opened") || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		return refused
	}
	matches, _, err := s.Page(1, []engine.Filter{1}, 0, messages, 1<<30, nil)
	if closed := s.Close(); err == nil && closed != nil {
		t.Errorf("close: %v", closed)
	}
	for i := range matches {
		if matches[i].Position != engine.Position(i+1) || string(matches[i].Body) != string(message(i).Entry.Body) {
			t.Fatalf("message %d is %d %q", i+1, matches[i].Position, matches[i].Body)
		}
	}
	switch {
	case err != nil:
		if !errors.Is(err, engine.ErrFailed) {
			t.Errorf("reading: %v, want ErrFailed", err)
		}
		<-s.Failed()
		return reported
	case len(matches) == messages:
		return whole
	}
	return start
}
