package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

const (
	problemType = "application/problem+json"
	needsJSON   = "the body must be JSON: Content-Type: application/json"
)

// Codes of problems that no fault has: they are about HTTP alone.
const (
	codeTooLarge    fault.Code = "too_large"
	codeMediaType   fault.Code = "unsupported_media_type"
	codeMethod      fault.Code = "method_not_allowed"
	codeTimeout     fault.Code = "timeout"
	maxProblems                = 20  // entries of errors; the detail counts the rest
	maxProblemPlace            = 256 // bytes of a pointer: it may be made of names that the client chose
)

// statuses says which status an error with a code is answered with.
var statuses = map[fault.Code]int{
	fault.Invalid: http.StatusUnprocessableEntity, fault.NotFound: http.StatusNotFound, fault.Conflict: http.StatusConflict,
	fault.Unauthorized: http.StatusUnauthorized, fault.Forbidden: http.StatusForbidden, fault.Exhausted: http.StatusForbidden,
	fault.TooManyRequests: http.StatusTooManyRequests, fault.Unavailable: http.StatusServiceUnavailable,
	fault.Expired:  http.StatusUnauthorized,
	fault.Internal: http.StatusInternalServerError,
	codeTooLarge:   http.StatusRequestEntityTooLarge, codeMediaType: http.StatusUnsupportedMediaType,
	codeMethod: http.StatusMethodNotAllowed, codeTimeout: http.StatusRequestTimeout,
}

// Problem is an RFC 9457 problem document: every error is answered with one, unless its operation has another form. It is an
// error, so that operations can return it.
type Problem struct {
	Type      string         `json:"type" example:"about:blank"`
	Title     string         `json:"title" example:"Unprocessable Entity" doc:"What the status means."`
	Status    int            `json:"status" example:"422"`
	Detail    string         `json:"detail" doc:"A sentence for people." example:"rules[2].topic: must not be empty"`
	Code      fault.Code     `json:"code" doc:"The kind of problem, for programs." enum:"invalid,not_found,conflict,unauthorized,forbidden,exhausted,too_many_requests,unavailable,internal,token_expired,too_large,unsupported_media_type,method_not_allowed,timeout" example:"invalid"`
	RequestID string         `json:"request_id" doc:"Names the request. The server's log has it with every answer of status 500 and above, and at level debug with every change that was made or refused." example:"req_k7xm4pqr2n5t"`
	Errors    []ProblemError `json:"errors,omitempty" doc:"The values that are wrong, 20 at most."`

	header http.Header
}

// ProblemError is one value that is wrong: in the body, or a parameter.
type ProblemError struct {
	Pointer   string `json:"pointer,omitempty" doc:"JSON pointer (RFC 6901) into the body." example:"/rules/2/topic"`
	Parameter string `json:"parameter,omitempty" doc:"The name of a parameter." example:"limit"`
	In        string `json:"in,omitempty" enum:"query,path,header" doc:"Where the parameter is."`
	Detail    string `json:"detail" example:"must not be empty"`
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the status, for huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of problem documents, for huma.
func (p *Problem) ContentType(string) string { return problemType }

// newProblem is a problem with a code and a sentence.
func newProblem(id string, code fault.Code, detail string) *Problem {
	status, ok := statuses[code]
	if !ok {
		status = http.StatusInternalServerError
	}
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code, RequestID: id}
}

// problem makes an error one that may be shown. What is not a fault, and the server's own mistakes, are hidden, and noted for the log.
// o may be nil.
func (a *API) problem(ctx context.Context, o *operation, err error) *Problem {
	id := callerOf(ctx).id
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	switch e, ok := errors.AsType[*fault.Error](err); {
	case ok && e.Code != fault.Internal:
		p := newProblem(id, e.Code, e.Error())
		if e.Field != "" {
			p.Errors = []ProblemError{o.place(e.Field, e.Message)}
		}
		if e.Code == fault.TooManyRequests || e.Code == fault.Unavailable {
			p.header = http.Header{"Retry-After": {"1"}}
		}
		return p
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return newProblem(id, fault.Unavailable, "the request was given up before it was done")
	}
	c := callerOf(ctx)
	if c.trouble.err = err.Error(); errors.Unwrap(err) != nil {
		c.trouble.err += ": " + errors.Unwrap(err).Error()
	}
	return hidden(id)
}

// hidden is what a client sees of the server's own mistakes.
func hidden(id string) *Problem {
	return newProblem(id, fault.Internal, "the server made a mistake; its log has it under this request_id")
}

// place says where the field of a fault ("rules[2].topic") is: a parameter of the operation unless its body has such a field.
func (o *operation) place(field, detail string) ProblemError {
	first := field
	if i := strings.IndexAny(field, ".["); i >= 0 {
		first = field[:i]
	}
	if first == "after" {
		first, field = "cursor", "cursor" // control's word for it
	}
	if o != nil && !slices.Contains(o.fields, first) {
		if in, ok := o.parameters[first]; ok {
			return ProblemError{Parameter: field, In: in, Detail: detail}
		}
	}
	return ProblemError{Pointer: pointer(field), Detail: detail}
}

// pointer makes "rules[2].topic" "/rules/2/topic". Keys that hold a separator come as escapeKey makes them.
func pointer(path string) string {
	if path == "" {
		return ""
	}
	path = strings.NewReplacer("[", "/", "]", "", ".", "/").Replace(pointerToken(path))
	return cut("/" + keyUnescaper.Replace(path))
}

// cut bounds a place, which may be made of what the client chose, and hides secrets in it: half of one would not be known for one.
func cut(place string) string {
	if short := access.RedactStart(place, maxProblemPlace); len(place) > maxProblemPlace {
		return strings.ToValidUTF8(short[:min(len(short), maxProblemPlace)], "")
	}
	return place
}

// retold makes an error of huma's, about the form of a request, a problem.
func (a *API) retold(ctx huma.Context, e *huma.ErrorModel) *Problem {
	id := callerOf(ctx.Context()).id
	var p *Problem
	switch e.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		p = newProblem(id, fault.Invalid, e.Detail)
		p.Status, p.Title = e.Status, http.StatusText(e.Status)
	default: // nothing else is about the form of a request: its body was read before
		return hidden(id)
	}
	for _, d := range e.Errors {
		if told := retoldDetail(d); len(p.Errors) == 0 || p.Errors[len(p.Errors)-1] != told { // a value may be wrong in two ways that we call one
			p.Errors = append(p.Errors, told)
		}
	}
	if n := len(p.Errors); n > 0 {
		first := p.Errors[0]
		p.Detail = first.Detail
		if at := first.Pointer + first.Parameter; at != "" {
			p.Detail = at + ": " + first.Detail
		}
		if n > 1 {
			p.Detail += fmt.Sprintf(" (and %d more)", n-1)
		}
		p.Errors = p.Errors[:min(n, maxProblems)]
	}
	return p
}

func retoldDetail(d *huma.ErrorDetail) ProblemError {
	in, path, _ := strings.Cut(d.Location, ".")
	if in != "body" {
		return ProblemError{Parameter: cut(path), In: in, Detail: inWords(d.Message)}
	}
	var missing string
	switch n, _ := fmt.Sscanf(d.Message, "expected required property %s to be present", &missing); {
	case n == 1:
		return ProblemError{Pointer: pointer(strings.TrimPrefix(path+"."+missing, ".")), Detail: "is required"}
	case d.Message == "unexpected property":
		return ProblemError{Pointer: pointer(path), Detail: "there is no such field"}
	}
	if at, text, ok := placeOf(d.Message); ok {
		return ProblemError{Pointer: at, Detail: text}
	}
	if _, ok := d.Value.(null); ok {
		return ProblemError{Pointer: pointer(path), Detail: "must not be null"}
	}
	return ProblemError{Pointer: pointer(path), Detail: inWords(d.Message)}
}

// inWords is a bound as we say it.
func inWords(message string) string {
	if n, ok := strings.CutPrefix(message, "expected length >= "); n == "1" {
		return "must not be empty"
	} else if ok {
		return "must have at least " + n + " characters"
	}
	if n, ok := strings.CutPrefix(message, "expected length <= "); ok {
		return "at most " + n + " characters are possible"
	}
	return message
}

func tooLarge(limit int64) string { return fmt.Sprintf("the body has more than %d bytes", limit) }

// clean takes secrets out of what a problem repeats from the request: whatever was put into a wrong field.
func (p *Problem) clean() *Problem {
	p.Detail = access.Redact(p.Detail)
	for i := range p.Errors {
		e := &p.Errors[i]
		e.Pointer, e.Parameter, e.Detail = access.Redact(e.Pointer), access.Redact(e.Parameter), access.Redact(e.Detail)
	}
	return p
}

// transform is the last that an answer passes before it is written: errors take the form that their operation has.
func (a *API) transform(ctx huma.Context, _ string, v any) (any, error) {
	p, ok := v.(*Problem)
	if !ok {
		e, ok := v.(*huma.ErrorModel)
		if !ok {
			return v, nil
		}
		p = a.retold(ctx, e)
	}
	p = p.clean()
	if o := operationOf(ctx); o != nil && o.shape != nil {
		ctx.SetHeader("Content-Type", "application/json")
		return o.shape(p), nil
	}
	return p, nil
}

// refuse answers with a problem before the operation is reached. o may be nil.
func (a *API) refuse(w http.ResponseWriter, o *operation, p *Problem) {
	var body any = p.clean()
	h := w.Header()
	maps.Copy(h, p.header)
	h.Set("Content-Type", problemType)
	if o != nil && o.shape != nil {
		h.Set("Content-Type", "application/json")
		body = o.shape(p)
	}
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client is gone
}

// stamp is a time as the API shows it: RFC 3339, UTC, milliseconds. The zero time is "", which is left out.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// limitedBy is the problem of a request beyond a limit.
func limitedBy(id string, b *buckets, v verdict) *Problem {
	p := newProblem(id, fault.TooManyRequests, "too many requests; wait "+strconv.Itoa(max(1, seconds(v.retry)))+" s")
	p.header = make(http.Header)
	b.announce(p.header, v)
	return p
}
