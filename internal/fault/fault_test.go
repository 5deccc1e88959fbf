package fault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"cloudsignal/internal/fault"
)

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fault.New(fault.NotFound, "there is no user %q", "a"), `there is no user "a"`},
		{fault.Field("name", "must not be empty"), "name: must not be empty"},
		{fault.Under("rules[2]", fault.Field("topic", "is empty")), "rules[2].topic: is empty"},
		{fault.Under("rules[2]", fault.Field("", "is empty")), "rules[2]: is empty"},
		{fault.Under("rules", fault.New(fault.Conflict, "exists")), "exists"},
		{&fault.Error{Code: fault.Unavailable}, "unavailable"},
		{&fault.Error{Code: fault.Invalid, Field: "x"}, "x: invalid"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestCauseIsKeptButNotShown(t *testing.T) {
	err := fault.Wrap(fault.Internal, fmt.Errorf("dsn with pw_secret: %w", io.ErrUnexpectedEOF), "the database cannot be read")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("shows the cause: %v", err)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("loses the cause")
	}
	if fault.Wrap(fault.Internal, nil, "x") != nil || fault.Under("x", nil) != nil {
		t.Error("makes an error of none")
	}
	if fault.Under("x", io.EOF) != io.EOF {
		t.Error("changes another error")
	}
}

func TestCodeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fault.Code
	}{
		{nil, ""},
		{io.EOF, fault.Internal},
		{fault.New(fault.Conflict, "x"), fault.Conflict},
		{fmt.Errorf("while: %w", fault.Field("a", "b")), fault.Invalid},
		{fault.Wrap(fault.Unavailable, fault.New(fault.NotFound, "x"), "y"), fault.Unavailable},
	} {
		if got := fault.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %q, want %q", c.err, got, c.want)
		}
	}
}
