package broker

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"cloudsignal/internal/access"
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

// flush returns how many lines were left out since the last one.
func (l *logBudget) flush() (suppressed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed
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

// printable is what a client sent in a form that fits a log line, does nothing to a terminal and shows no secret.
func printable(b []byte) string {
	const most = 128
	s, more := access.RedactStart(string(b[:min(len(b), 2*most)]), most), "" // cut first, half a secret would not be known for one
	if len(b) > most {
		s, more = strings.ToValidUTF8(s, ""), "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
		s = s[1 : len(s)-1]
	}
	return s + more
}

// secretPrefixes begin passwords, tokens and keys.
var secretPrefixes = []string{"pw_", "tkn_", "sk_", "pk_", "rk_", "cs_", "op_", "ses_"}

// printableUsername is printable for what stands where a user name should: people put passwords and keys there.
func printableUsername(b []byte) string {
	name, organization, ok := strings.Cut(strings.ToLower(string(b)), "@")
	begins := func(p string) bool { return strings.HasPrefix(name, p) || strings.HasPrefix(organization, p) }
	if len(b) > 0 && (!ok || slices.ContainsFunc(secretPrefixes, begins)) {
		return "(not shown: it may be a secret)"
	}
	return printable(b)
}

// reasonLabel is a reason as a counter's label.
func reasonLabel(r mqtt.Reason) string {
	return strings.ReplaceAll(strings.ToLower(r.String()), " ", "_")
}
