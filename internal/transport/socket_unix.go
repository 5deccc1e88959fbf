//go:build unix

package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

const canPoll = true

// socket is a TCP connection that can also be used without waiting.
type socket struct {
	*net.TCPConn
	rc syscall.RawConn
	// polling makes Read return errWouldBlock instead of waiting. It is the reader goroutine's own.
	polling bool
}

func newSocket(tcp *net.TCPConn) (*socket, error) {
	rc, err := tcp.SyscallConn()
	return &socket{TCPConn: tcp, rc: rc}, err
}

// attempt is one system call on a file descriptor. It is pooled with its method values: a try costs no allocation.
type attempt struct {
	p           []byte
	n           int
	err         error
	read, write func(fd uintptr)
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.read = func(fd uintptr) { a.do(syscall.Read, fd) }
	a.write = func(fd uintptr) { a.do(syscall.Write, fd) }
	return a
}}

func (a *attempt) do(call func(int, []byte) (int, error), fd uintptr) {
	for {
		a.n, a.err = call(int(fd), a.p)
		if a.err != syscall.EINTR {
			return
		}
	}
}

// Read is TCPConn.Read, but for polling.
func (s *socket) Read(p []byte) (int, error) {
	if !s.polling || len(p) == 0 {
		return s.TCPConn.Read(p)
	}
	a := attempts.Get().(*attempt)
	a.p = p
	err := s.rc.Control(a.read) // Control, not Read: it neither waits nor looks at deadlines
	n, callErr := a.n, a.err
	a.p = nil
	attempts.Put(a)
	switch {
	case err != nil:
		return 0, err
	case callErr == syscall.EAGAIN:
		return 0, errWouldBlock{}
	case callErr != nil:
		return 0, os.NewSyscallError("read", callErr)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// tryWrite writes what the kernel takes at once.
func (s *socket) tryWrite(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	a := attempts.Get().(*attempt)
	a.p = p
	err := s.rc.Control(a.write) // Control, not Write: a deadline that is over must not fail the next try
	n, callErr := a.n, a.err
	a.p = nil
	attempts.Put(a)
	switch {
	case err != nil:
		return 0, err
	case callErr == syscall.EAGAIN:
		return 0, nil
	case callErr != nil:
		return 0, os.NewSyscallError("write", callErr)
	}
	return n, nil
}
