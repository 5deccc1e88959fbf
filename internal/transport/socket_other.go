//go:build !unix

package transport

import (
	"net"
	"syscall"
)

const canPoll = false

// socket is a TCP connection; this system offers no call that does not wait.
type socket struct {
	*net.TCPConn
	rc      syscall.RawConn
	polling bool
}

func newSocket(tcp *net.TCPConn) (*socket, error) {
	rc, err := tcp.SyscallConn()
	return &socket{TCPConn: tcp, rc: rc}, err
}

func (s *socket) tryWrite([]byte) (int, error) { return 0, nil }
