package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"cloudsignal/internal/fault"
)

// hasBody says whether requests of an operation may carry one: what else arrives is not read.
func (o *operation) hasBody() bool {
	return o.method != http.MethodGet && o.method != http.MethodDelete
}

// read reads the whole body of a request, which is then there again for who comes next, and looks at its media type.
func (a *API) read(o *operation, w http.ResponseWriter, r *http.Request) ([]byte, *Problem) {
	id := callerOf(r.Context()).id
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) //nolint:errcheck // only tests have a connection without
	body, err := io.ReadAll(io.LimitReader(r.Body, o.body+1))
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case int64(len(body)) > o.body:
		return nil, newProblem(id, codeTooLarge, tooLarge(o.body))
	case isNet && timeout.Timeout():
		return nil, newProblem(id, codeTimeout, "the body did not arrive in time")
	case errors.Is(err, context.Canceled):
		return nil, newProblem(id, fault.Unavailable, "the request was given up before it was done")
	case err != nil: // its end is missing, or it is no chunked coding
		p := newProblem(id, fault.Invalid, "the body cannot be read: it is not what Content-Length or Transfer-Encoding says")
		p.Status, p.Title = http.StatusBadRequest, http.StatusText(http.StatusBadRequest)
		return nil, p
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) > 0 && o.takesBody {
		if !isJSON(r.Header.Values("Content-Type")) {
			return nil, newProblem(id, codeMediaType, needsJSON)
		}
		r.Header.Set("Content-Type", "application/json") // in the spelling that huma looks for
	}
	return body, nil
}

// isJSON takes application/json and, for changes, application/merge-patch+json, in UTF-8.
func isJSON(contentType []string) bool {
	if len(contentType) != 1 {
		return false
	}
	kind, parameters, err := mime.ParseMediaType(contentType[0])
	if err != nil || kind != "application/json" && kind != "application/merge-patch+json" {
		return false
	}
	charset, given := parameters["charset"]
	return !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
}

var errNotUTF8 = errors.New("the body is not UTF-8")

// unmarshal reads JSON. Its errors are shown, so they quote nothing. huma asks for it twice: as it is, to hold it against the schema,
// which gets it in the form of checkable; and as the type of the operation.
func unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	err := json.Unmarshal(data, v)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return errors.New("the body is not JSON: look at byte " + strconv.FormatInt(e.Offset, 10))
	}
	parsed, first := v.(*any)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if first {
			e.Offset-- // here it is behind what follows the number
		}
		return &placed{placeAt(data, e.Offset), mistyped(e)}
	}
	if err != nil {
		return err
	}
	if first {
		if at := loneSurrogate(data); at > 0 {
			return &placed{placeAt(data, int64(at)), fmt.Sprintf(`the text has half of a surrogate pair at byte %d of the body, which is no character`, at)}
		}
		*parsed = checkable(*parsed)
	}
	return nil
}

// mistyped says what is wrong with a value that the schema takes and the type does not.
func mistyped(e *json.UnmarshalTypeError) string {
	number, ok := strings.CutPrefix(e.Value, "number ")
	switch {
	case ok && e.Type.Kind().String() != "float64" && strings.ContainsAny(number, ".eE"):
		return "must be written as a whole number, without a point or an exponent"
	case ok:
		return "is too large"
	}
	return "is of the wrong type"
}

// placed is an error about one value of a body. huma keeps nothing of an error but its text, so that has the place too.
type placed struct{ pointer, text string }

const placedMark = "\x00" // is in no other error

func (p *placed) Error() string { return placedMark + p.pointer + placedMark + p.text }

// placeOf takes such a text apart.
func placeOf(message string) (pointer, text string, ok bool) {
	rest, ok := strings.CutPrefix(message, placedMark)
	if !ok {
		return "", message, false
	}
	pointer, text, _ = strings.Cut(rest, placedMark)
	return pointer, text, true
}

// placeAt is the JSON pointer of the value that the byte before offset belongs to.
func placeAt(data []byte, offset int64) string {
	type level struct {
		list, named bool // an object's is named from a key to its value
		key         string
		index       int
	}
	var levels []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err != nil {
			return ""
		}
		n := len(levels)
		delim, isDelim := t.(json.Delim)
		switch {
		case isDelim && (delim == '}' || delim == ']'):
			levels = levels[:n-1]
		case n > 0 && levels[n-1].list:
			levels[n-1].index++
		case n > 0 && !levels[n-1].named:
			levels[n-1].key, _ = t.(string)
			levels[n-1].named = true
		case n > 0:
			levels[n-1].named = false
		}
		if d.InputOffset() >= offset {
			break
		}
		if isDelim && (delim == '{' || delim == '[') {
			levels = append(levels, level{list: delim == '[', index: -1})
		}
	}
	var b strings.Builder
	for _, l := range levels {
		if b.WriteByte('/'); l.list {
			b.WriteString(strconv.Itoa(l.index))
		} else {
			b.WriteString(pointerToken(l.key))
		}
	}
	return cut(b.String())
}

// loneSurrogate is the byte, counted from 1, at which JSON escapes half of a surrogate pair, which encoding/json would replace; 0: there is none.
func loneSurrogate(data []byte) int {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		if i++; data[i] != 'u' { // of \\ too
			continue
		}
		r := escaped(data[i-1:])
		if !utf16.IsSurrogate(r) {
			continue
		}
		if i+5 >= len(data) || utf16.DecodeRune(r, escaped(data[i+5:])) == utf8.RuneError {
			return i
		}
		i += 10 // both halves
	}
	return 0
}

// escaped is the code unit that data begins with, as \uXXXX; -1: it does not.
func escaped(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// null stands for null in what is held against a schema. huma would pass over it where a field may be left out; here it is of the wrong
// type everywhere but where anything may stand.
type null struct{}

// checkable is a parsed body in the form that is held against a schema: no null, and keys in which huma's paths can be taken apart.
func checkable(v any) any {
	switch v := v.(type) {
	case nil:
		return null{}
	case []any:
		for i := range v {
			v[i] = checkable(v[i])
		}
	case map[string]any:
		var odd []string
		for key, value := range v {
			v[key] = checkable(value)
			if key == "" || strings.ContainsAny(key, ".[]%") {
				odd = append(odd, key)
			}
		}
		slices.Sort(odd)
		for _, key := range odd {
			value := v[key]
			delete(v, key)
			v[escapeKey(key)] = value
		}
	}
	return v
}

// A key in a path of huma's, in which . and [ separate.
var (
	keyEscaper   = strings.NewReplacer("%", "%25", ".", "%2E", "[", "%5B", "]", "%5D")
	keyUnescaper = strings.NewReplacer("%25", "%", "%2E", ".", "%5B", "[", "%5D", "]", "%00", "")
)

func escapeKey(key string) string {
	if key == "" {
		return "%00"
	}
	return keyEscaper.Replace(key)
}

// pointerToken is a key in a JSON pointer, RFC 6901 section 3.
func pointerToken(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
