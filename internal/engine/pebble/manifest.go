package pebble

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble takes a damaged record of its manifest, the list of its tables, for the end that a crash has torn, and goes on
// with the tables listed so far: messages from the middle of the log would be gone in silence, and their files deleted.
// So the disk notes behind each sync of a manifest how long it is, in a file of its own, and Open refuses one that can
// be read less far. A manifest is synced once for each new table, so that costs little.
//
// The folder is synced behind a new manifest, too: Pebble next makes the file that names it, and after a power cut could
// find that one without the manifest.

const (
	syncedFile     = "SYNCED"
	manifestPrefix = "MANIFEST-"
	markerPrefix   = "marker.manifest."
)

// manifestFile is a manifest that is written.
type manifestFile struct {
	diskFile
	dir, name string
	size      int64
	linked    bool // the folder was synced since it was made
}

func (f *manifestFile) Write(p []byte) (int, error) {
	f.size += int64(len(p))
	return f.diskFile.Write(p)
}

func (f *manifestFile) Sync() error {
	if err := f.diskFile.Sync(); err != nil {
		return err
	}
	return f.disk.do(func() error {
		if err := f.disk.note(f.dir, f.name, f.size); err != nil || f.linked {
			return err
		}
		f.linked = true
		return syncDir(f.disk.FS, f.dir)
	})
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *manifestFile) SyncData() error { return f.Sync() }

// note overwrites the one line in place: shorter than a sector, it is there or not, and its sum tells.
func (d *disk) note(dir, name string, size int64) error {
	f, err := d.FS.OpenReadWrite(d.FS.PathJoin(dir, syncedFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%s %020d", name, size)
	_, err = f.WriteAt(fmt.Appendf(nil, "%s %08x\n", line, crc32.ChecksumIEEE([]byte(line))), 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// noted reads the line. Nothing that makes sense there is nothing to check.
func (s *Store) noted() (name string, size int64, err error) {
	text, _, err := s.slurp(syncedFile)
	if err != nil {
		return "", 0, err
	}
	var sum uint32
	if n, _ := fmt.Sscanf(text, "%s %d %x\n", &name, &size, &sum); n != 3 || crc32.ChecksumIEEE([]byte(fmt.Sprintf("%s %020d", name, size))) != sum {
		return "", 0, nil
	}
	return name, size, nil
}

// slurp reads a small file, and tells whether there is one.
func (s *Store) slurp(name string) (text string, found bool, err error) {
	f, err := s.options.FS.Open(s.options.FS.PathJoin(s.options.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 512))
	return string(b), true, errors.Join(err, f.Close())
}

// checkManifest refuses a manifest that cannot be read as far as it was synced.
func (s *Store) checkManifest() error {
	name, size, err := s.noted()
	if err != nil || name == "" {
		return err
	}
	names, err := s.options.FS.List(s.options.Dir)
	if err != nil {
		return err
	}
	marker := ""
	for _, n := range names {
		if strings.HasPrefix(n, markerPrefix) {
			marker = max(marker, n) // they are numbered; the last counts
		}
	}
	if !strings.HasSuffix(marker, "."+name) {
		return nil // a crash between a new manifest and its becoming the one in use
	}
	f, err := s.options.FS.Open(s.options.FS.PathJoin(s.options.Dir, name))
	if err != nil {
		return err
	}
	readable := int64(0)
	for r := record.NewReader(f, 0); ; readable = r.Offset() {
		next, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, next)
		}
		if err != nil {
			break
		}
	}
	if readable < size {
		return errors.Join(fmt.Errorf("file %s is damaged at byte %d of %d", name, readable, size), f.Close())
	}
	return f.Close()
}
