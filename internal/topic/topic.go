// Package topic knows topic names and topic filters of MQTT (4.7, 4.8.2), and the two trees built on them: Tree, from
// filters to subscribers, and Names, from topic names to values.
//
// Nothing is normalised ([MQTT-4.7.3-4]): "/a", "a/" and "a//b" are three topics, and an empty level is a level. In a
// filter, "+" is a wildcard only as a whole level and "#" only as the whole last level. The functions that compare filters
// do not check them: there a misplaced wildcard stands for itself. They take "$share/GROUP/FILTER" literally too; SplitShare comes first.
package topic

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// What a Limits field of 0 stands for.
const (
	DefaultBytes  = 4096
	DefaultLevels = 64
)

// Limits bound a topic name or a whole topic filter, "$share/GROUP/" included.
type Limits struct {
	Bytes  int // length in bytes; 0: DefaultBytes
	Levels int // slashes plus one; 0: DefaultLevels
}

// What CheckName, CheckFilter and SplitShare find wrong. They are wrapped: use errors.Is.
var (
	ErrEmpty    = errors.New("topic is empty")                      // [MQTT-4.7.3-1]
	ErrUTF8     = errors.New("topic is not valid UTF-8")            // [MQTT-1.5.4-1]
	ErrNUL      = errors.New("topic contains the character U+0000") // [MQTT-4.7.3-2]
	ErrWildcard = errors.New("topic has a misplaced wildcard")
	ErrShare    = errors.New("shared subscription is malformed")
	ErrTooLong  = errors.New("topic is too long")
	ErrTooDeep  = errors.New("topic has too many levels")
)

var (
	errWildcardInName = fmt.Errorf("%w: a topic name must not contain + or #", ErrWildcard)                 // [MQTT-4.7.0-1]
	errWildcardMany   = fmt.Errorf("%w: # must be the whole last level of a filter", ErrWildcard)           // [MQTT-4.7.1-1]
	errWildcardOne    = fmt.Errorf("%w: + must be a whole level of a filter", ErrWildcard)                  // [MQTT-4.7.1-2]
	errShareGroup     = fmt.Errorf("%w: the group must not be empty or contain + or #", ErrShare)           // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
	errShareFilter    = fmt.Errorf("%w: it must be $share/GROUP/FILTER with a filter, not empty", ErrShare) // [MQTT-4.8.2-2]
)

const sharePrefix = "$share/"

// view is x as a string, without a copy. It is valid as long as x is and only while nobody writes to x, so none of it may be
// kept. The header of a string is the beginning of the header of a slice.
func view[T ~string | ~[]byte](x T) string { return *(*string)(unsafe.Pointer(&x)) } //nolint:gosec // a string is the front of a slice; it does not outlive x

// CheckName reports why x is not a topic name: ErrEmpty, ErrUTF8, ErrNUL or ErrWildcard, and only for one that is well
// formed ErrTooLong or ErrTooDeep.
func CheckName[T ~string | ~[]byte](x T, l Limits) error {
	s := view(x)
	if err := checkText(s); err != nil {
		return err
	}
	if strings.IndexByte(s, '+') >= 0 || strings.IndexByte(s, '#') >= 0 {
		return errWildcardInName
	}
	return l.check(s)
}

// CheckFilter reports why x is not a topic filter, nor "$share/GROUP/FILTER": as CheckName, or ErrShare. What follows the
// group is a plain filter: another "$share/" in it has no meaning.
func CheckFilter[T ~string | ~[]byte](x T, l Limits) error {
	s := view(x)
	if err := checkText(s); err != nil {
		return err
	}
	_, rest, _, err := SplitShare(s)
	if err != nil {
		return err
	}
	if err := checkWildcards(rest); err != nil {
		return err
	}
	return l.check(s)
}

// SplitShare takes "$share/g/a/#" apart: "g", "a/#", true. A filter that does not begin with "$share/" is not shared:
// "", filter, false. A malformed one gives "", "", true and ErrShare. The filter part is not checked further.
func SplitShare(filter string) (group, rest string, shared bool, err error) {
	after, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return "", filter, false, nil
	}
	group, rest, _ = strings.Cut(after, "/")
	switch {
	case group == "" || strings.IndexByte(group, '+') >= 0 || strings.IndexByte(group, '#') >= 0:
		return "", "", true, errShareGroup
	case rest == "":
		return "", "", true, errShareFilter
	}
	return group, rest, true, nil
}

func checkText(s string) error {
	switch {
	case s == "":
		return ErrEmpty
	case !utf8.ValidString(s):
		return ErrUTF8
	case strings.IndexByte(s, 0) >= 0:
		return ErrNUL
	}
	return nil
}

// checkWildcards wants every wildcard alone in its level, and "#" at the end.
func checkWildcards(filter string) error {
	last := len(filter) - 1
	if i := strings.IndexByte(filter, '#'); i >= 0 && (i != last || i > 0 && filter[i-1] != '/') {
		return errWildcardMany
	}
	for from := 0; ; {
		i := strings.IndexByte(filter[from:], '+')
		if i < 0 {
			return nil
		}
		i += from
		if i > 0 && filter[i-1] != '/' || i < last && filter[i+1] != '/' {
			return errWildcardOne
		}
		from = i + 1
	}
}

func (l Limits) check(s string) error {
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.Levels <= 0 {
		l.Levels = DefaultLevels
	}
	if len(s) > l.Bytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLong, len(s), l.Bytes)
	}
	if n := strings.Count(s, "/") + 1; n > l.Levels {
		return fmt.Errorf("%w: %d, at most %d are allowed", ErrTooDeep, n, l.Levels)
	}
	return nil
}

// Match reports whether a message published to name goes to a subscription of filter. A filter that begins with a wildcard
// matches no name that begins with "$" ([MQTT-4.7.2-1]).
func Match[T, U ~string | ~[]byte](filter T, name U) bool {
	f, n := view(filter), view(name)
	if n != "" && n[0] == '$' && f != "" && (f[0] == '+' || f[0] == '#') {
		return false
	}
	return covers(f, n)
}

// Covers is Match without the "$" rule: "#" covers every name. Access rules use it.
func Covers[T, U ~string | ~[]byte](filter T, name U) bool { return covers(view(filter), view(name)) }

func covers(filter, name string) bool {
	for filter != "#" {
		f, filterRest, filterMore := strings.Cut(filter, "/")
		n, nameRest, nameMore := strings.Cut(name, "/")
		if f != "+" && f != n {
			return false
		}
		if !filterMore {
			return !nameMore
		}
		if !nameMore {
			return filterRest == "#" // "a/#" matches "a" (4.7.1.2)
		}
		filter, name = filterRest, nameRest
	}
	return true
}

// Contains reports whether every name that inner covers is covered by outer. It is exact: "#" and "+/#" cover the same
// names, all of them, since every name has a level.
func Contains(outer, inner string) bool {
	outer, inner = spelled(outer), spelled(inner)
	for outer != "#" {
		if inner == "#" {
			return false // inner covers the name that ends here, and outer wants one level more
		}
		o, outerRest, outerMore := strings.Cut(outer, "/")
		i, innerRest, innerMore := strings.Cut(inner, "/")
		if o != "+" && o != i { // i may be "+": other names than o are always to be had
			return false
		}
		if !outerMore {
			return !innerMore
		}
		if !innerMore {
			return outerRest == "#"
		}
		outer, inner = outerRest, innerRest
	}
	return true
}

// spelled is filter with the least that it wants of a name made visible: one level, and two if the first is empty, since no
// name is ([MQTT-4.7.3-1]).
func spelled(filter string) string {
	switch filter {
	case "#":
		return "+/#"
	case "/#":
		return "/+/#"
	}
	return filter
}

// Overlaps reports whether there is a name that both filters cover. It is exact, as Contains is.
func Overlaps(a, b string) bool {
	a, b = spelled(a), spelled(b)
	for a != "#" && b != "#" {
		x, aRest, aMore := strings.Cut(a, "/")
		y, bRest, bMore := strings.Cut(b, "/")
		switch {
		case x != y && x != "+" && y != "+":
			return false
		case !aMore:
			return !bMore || bRest == "#"
		case !bMore:
			return aRest == "#"
		}
		a, b = aRest, bRest
	}
	return true
}
