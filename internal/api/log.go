package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"cloudsignal/internal/access"
)

// maxErrorLines bounds the lines a second about answers of status 500 and above; the rest are counted, and their number is in the next
// line.
const maxErrorLines = 100

// errorLines is that bound at work.
type errorLines struct {
	mu         sync.Mutex
	second     int64
	lines      int
	suppressed int
}

// take reports whether a line may be written now, and how many were not since the last one.
func (l *errorLines) take(now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.lines = s, 0
	}
	if l.lines++; l.lines > maxErrorLines {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// trouble is what a request met of the server's own mistakes, for its line of log.
type trouble struct {
	err   string // with its cause
	panic string
	stack string
}

// ended counts and logs an answer: every one of status 500 and above, and at level debug the changes that were made or refused. The query
// is in no line: it is the client's.
func (a *API) ended(ctx context.Context, c *caller, w *writer, r *http.Request) {
	level, message := slog.LevelDebug, "a change"
	switch {
	case c.trouble.panic != "":
		level, message = slog.LevelError, "a request panicked"
		a.counters.panics.Add(1)
	case w.status >= http.StatusInternalServerError:
		level, message = slog.LevelError, "a request failed"
		if w.status == http.StatusServiceUnavailable && c.trouble.err == "" {
			level, message = slog.LevelWarn, "a request was not served"
		}
		a.counters.failed.Add(1)
	case r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions:
		return
	case w.status == http.StatusUnauthorized, w.status == http.StatusForbidden, w.status == http.StatusTooManyRequests:
		message = "a change was refused"
	case w.status >= http.StatusBadRequest:
		return
	}
	if !a.config.Log.Enabled(ctx, level) {
		return
	}
	attrs := []any{"request_id", c.id, "method", method(r), "route", pattern(r), "status", w.status, "actor", c.actor.ID}
	if level > slog.LevelDebug {
		suppressed, ok := a.errorLines.take(a.config.Now())
		if !ok {
			return
		}
		if suppressed > 0 {
			attrs = append(attrs, "suppressed", suppressed)
		}
	}
	for _, more := range [][2]string{
		{"error", access.Redact(c.trouble.err)}, {"panic", access.Redact(c.trouble.panic)}, {"stack", c.trouble.stack},
	} {
		if more[1] != "" {
			attrs = append(attrs, more[0], more[1])
		}
	}
	a.config.Log.Log(ctx, level, message, attrs...)
}

// pattern is the route of a request as it is declared, without what the client put into it.
func pattern(r *http.Request) string {
	if _, path, ok := strings.Cut(r.Pattern, " "); ok {
		return path
	}
	return "none"
}

// method is the request's, if it is one that we know.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}
