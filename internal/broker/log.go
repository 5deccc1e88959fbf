package broker

import (
	"strings"
	"sync"
	"time"

	"cloudsignal/internal/mqtt"
)

// maxRefusalLines is the number of refusals of one connection that are logged per second; the rest are counted, and their
// number is in the next line.
const maxRefusalLines = 10

// maxStrangerLines is the same for all connections that have not logged in, together: anyone can cause them.
const maxStrangerLines = 100

// logBudget bounds what one connection can write to the log.
type logBudget struct {
	mu         sync.Mutex
	second     int64
	lines      int
	suppressed int
}

// take reports whether a line may be written now, and how many were not since the last one.
func (l *logBudget) take(now time.Time) (suppressed int, ok bool) {
	return l.takeOf(maxRefusalLines, now)
}

// takeOf is take with a bound of its own.
func (l *logBudget) takeOf(most int, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.lines = s, 0
	}
	if l.lines++; l.lines > most {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// refused logs the refusal of one packet or filter.
func (c *conn) refused(what, reason string, topic []byte) {
	suppressed, ok := c.log.take(c.b.cfg.Now())
	if !ok {
		return
	}
	attrs := c.who("what", what, "reason", reason, "topic", printable(topic))
	if suppressed > 0 {
		attrs = append(attrs, "suppressed", suppressed)
	}
	c.b.cfg.Log.Info("refused", attrs...)
}

// logEnd logs why a connection was refused, or ended by us.
func (c *conn) logEnd(msg string, attrs ...any) {
	if c.identity.Load() == nil {
		suppressed, ok := c.b.strangers.takeOf(maxStrangerLines, c.b.cfg.Now())
		if !ok {
			return
		}
		if suppressed > 0 {
			attrs = append(attrs, "suppressed", suppressed)
		}
	}
	c.b.cfg.Log.Info(msg, c.who(attrs...)...)
}

// identity is who a connection is in the log.
type identity struct{ organization, user, client string }

// who are the attributes that name a connection.
func (c *conn) who(more ...any) []any {
	attrs := append(more, "address", c.net.RemoteAddr().String(), "transport", string(c.net.Kind()))
	if id := c.identity.Load(); id != nil {
		attrs = append(attrs, "organization", id.organization, "user", id.user, "client", id.client)
	}
	return attrs
}

// printable shortens what a client sent to a length that fits a log line.
func printable(b []byte) string {
	const most = 128
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}

// reasonLabel is a reason as a counter's label.
func reasonLabel(r mqtt.Reason) string {
	return strings.ReplaceAll(strings.ToLower(r.String()), " ", "_")
}
