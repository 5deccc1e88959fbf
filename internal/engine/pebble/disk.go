package pebble

import (
	"io"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FreeBytes tells how much of the disk that a folder is on may still be written, for Options.FreeBytes. It asks the system
// each time: on Linux that takes a microsecond, and the store asks once for a write and its sync.
func FreeBytes(dir string) func() (int64, error) {
	return func() (int64, error) {
		usage, err := vfs.Default.GetDiskUsage(dir)
		return int64(min(usage.AvailBytes, math.MaxInt64)), err
	}
}

// disk stands between Pebble and the file system, and is why a failed write ends the store and not the process: Pebble
// answers a failed sync of its log with a panic, at the next change of log files even with one that cannot be recovered
// from (it unlocks twice). So Pebble never hears of a failure. The first failed write, sync, creation or renaming is
// told to the store, which from then on acknowledges nothing, and after it nothing is written any more: all that would
// change the disk is answered with success and dropped. What is on the disk stays as a crash at that moment would have
// left it, nothing is tried again, and Pebble can still be closed in good order.
//
// Reading, removing and locking pass on their errors: they lose nothing.
type disk struct {
	vfs.FS
	dead atomic.Bool
	fail func(error) // called with each failure, on whatever goroutine; takes no lock
}

// failed tells of a failure: always nil, since Pebble is not to know.
func (d *disk) failed(err error) error {
	if err != nil {
		d.dead.Store(true) // before fail: whoever learns of it finds nothing written after
		d.fail(err)
	}
	return nil
}

func (d *disk) do(f func() error) error {
	if d.dead.Load() {
		return nil
	}
	return d.failed(f())
}

func (d *disk) file(open func() (vfs.File, error)) (vfs.File, error) {
	if d.dead.Load() {
		return hole{}, nil
	}
	f, err := open()
	if err != nil {
		return hole{}, d.failed(err)
	}
	return &diskFile{f, d}, nil
}

func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.file(func() (vfs.File, error) { return d.FS.Create(name, c) })
	if df, ok := f.(*diskFile); ok && strings.HasPrefix(d.FS.PathBase(name), manifestPrefix) {
		return &manifestFile{diskFile: *df, dir: d.FS.PathDir(name), name: d.FS.PathBase(name)}, err
	}
	return f, err
}

func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(func() (vfs.File, error) { return d.FS.OpenReadWrite(name, c, opts...) })
}

func (d *disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(func() (vfs.File, error) { return d.FS.ReuseForWrite(from, to, c) })
}

func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d}, nil
}

func (d *disk) Rename(from, to string) error {
	return d.do(func() error { return d.FS.Rename(from, to) })
}

func (d *disk) Link(from, to string) error {
	return d.do(func() error { return d.FS.Link(from, to) })
}

func (d *disk) MkdirAll(dir string, perm os.FileMode) error {
	return d.do(func() error { return d.FS.MkdirAll(dir, perm) })
}

func (d *disk) Remove(name string) error {
	if d.dead.Load() {
		return nil // what was to replace the file may not have been written
	}
	return d.FS.Remove(name)
}

func (d *disk) RemoveAll(name string) error {
	if d.dead.Load() {
		return nil
	}
	return d.FS.RemoveAll(name)
}

func (d *disk) Unwrap() vfs.FS { return d.FS }

// diskFile is a file that is written, or a directory.
type diskFile struct {
	vfs.File
	disk *disk
}

func (f *diskFile) Write(p []byte) (int, error) {
	return len(p), f.disk.do(func() error {
		n, err := f.File.Write(p)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		return err
	})
}

func (f *diskFile) WriteAt(p []byte, offset int64) (int, error) {
	return len(p), f.disk.do(func() error {
		n, err := f.File.WriteAt(p, offset)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		return err
	})
}

func (f *diskFile) Preallocate(offset, length int64) error {
	if f.disk.dead.Load() {
		return nil
	}
	return f.File.Preallocate(offset, length)
}

func (f *diskFile) Sync() error     { return f.disk.do(f.File.Sync) }
func (f *diskFile) SyncData() error { return f.disk.do(f.File.SyncData) }

func (f *diskFile) SyncTo(length int64) (bool, error) {
	full := false
	err := f.disk.do(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Close closes the file whatever has happened before.
func (f *diskFile) Close() error { return f.disk.failed(f.File.Close()) }

// hole is a file that was made after the failure.
type hole struct{}

func (hole) Close() error                           { return nil }
func (hole) Read([]byte) (int, error)               { return 0, io.EOF }
func (hole) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (hole) Write(p []byte) (int, error)            { return len(p), nil }
func (hole) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (hole) Preallocate(_, _ int64) error           { return nil }
func (hole) Stat() (vfs.FileInfo, error)            { return holeInfo{}, nil }
func (hole) Sync() error                            { return nil }
func (hole) SyncTo(int64) (bool, error)             { return true, nil }
func (hole) SyncData() error                        { return nil }
func (hole) Prefetch(_, _ int64) error              { return nil }
func (hole) Fd() uintptr                            { return vfs.InvalidFd }

type holeInfo struct{}

func (holeInfo) Name() string           { return "" }
func (holeInfo) Size() int64            { return 0 }
func (holeInfo) Mode() os.FileMode      { return 0 }
func (holeInfo) ModTime() time.Time     { return time.Time{} }
func (holeInfo) IsDir() bool            { return false }
func (holeInfo) Sys() any               { return nil }
func (holeInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
