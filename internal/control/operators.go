package control

import (
	"context"

	"cloudsignal/internal/fault"
)

// EnsureOperator makes a key of the server's operator (op_...) if there is none. save is called before the commit and must have kept the
// secret safely when it returns nil, as in Bootstrap.
func (s *Store) EnsureOperator(ctx context.Context, save func(secret string) error) (made bool, err error) {
	return false, fault.New(fault.Internal, "not there yet")
}
