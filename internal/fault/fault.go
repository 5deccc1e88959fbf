// Package fault is an error with a code and a sentence that may be shown to whoever caused it. The API maps the code to
// an HTTP status, the broker to a reason code.
package fault

import (
	"errors"
	"fmt"
)

// Code says what kind of error it is, for programs. The text is stable: it goes out in API answers.
type Code string

// Codes.
const (
	Invalid         Code = "invalid"           // a value is wrong; Field names it
	NotFound        Code = "not_found"         // there is no such thing, or not for this caller
	Conflict        Code = "conflict"          // it contradicts what is there
	Unauthorized    Code = "unauthorized"      // who is asking is not known
	Expired         Code = "token_expired"     // who is asking is known, by a token that has ended
	Forbidden       Code = "forbidden"         // who is asking may not
	Exhausted       Code = "exhausted"         // a limit on how much there may be is reached
	TooManyRequests Code = "too_many_requests" // later it would work
	Unavailable     Code = "unavailable"       // the server cannot at the moment
	Internal        Code = "internal"          // the server's own mistake
)

// Error is an error with a code. Field is the path of the value that is wrong ("rules[2].topic"), empty if it is no
// single one. Message is a sentence for the caller and holds no secret. Err is the cause, for logs only.
type Error struct {
	Code    Code
	Field   string
	Message string
	Err     error
}

// Error is the field and the message. It never shows the cause, which may hold what the caller must not see.
func (e *Error) Error() string {
	switch {
	case e.Field != "" && e.Message != "":
		return e.Field + ": " + e.Message
	case e.Field != "":
		return e.Field + ": " + string(e.Code)
	case e.Message != "":
		return e.Message
	}
	return string(e.Code)
}

// Unwrap is the cause, nil if there is none.
func (e *Error) Unwrap() error { return e.Err }

// New is an error without a field. The message is formatted as by fmt.Sprintf.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Field is an Invalid error about one value.
func Field(field, format string, args ...any) *Error {
	return &Error{Code: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// Wrap is an error with a cause. It is nil if err is nil.
func Wrap(code Code, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: err}
}

// Under puts a path before the field of an Invalid error ("topic" under "rules[2]" is "rules[2].topic"). Other errors, nil
// among them, stay as they are.
func Under(path string, err error) error {
	e, ok := err.(*Error) //nolint:errorlint // only what is outermost gets the path
	if !ok || e.Code != Invalid {
		return err
	}
	under := *e
	if under.Field = path; e.Field != "" {
		under.Field += "." + e.Field
	}
	return &under
}

// CodeOf is the code of the first Error in err's chain, Internal if there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
