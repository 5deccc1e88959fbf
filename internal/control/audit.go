package control

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Bounds of the audit of one organization. When there are more entries of a class, the oldest of them go; each class has its own, so that
// neither tokens, of which there may be many, nor guesses at a member's password push out who changed a rule.
const (
	MaxAuditedChanges = 100_000
	MaxAuditedTokens  = 100_000
	MaxAuditedLogins  = 10_000
	maxAuditDetail    = 8 << 10 // bytes of JSON before and after a change; of more only the size is kept
)

// AuditActor is who did it.
type AuditActor struct {
	Kind ActorKind
	ID   string
	Name string
}

// AuditEntry is one change, or one log-in of a member. It never holds a secret, a hash or a password.
type AuditEntry struct {
	ID      string // aud_...; later ones are greater
	At      time.Time
	Actor   AuditActor
	Address string          // empty if there is none
	Action  string          // user.create, key.revoke, member.login, ...
	Target  string          // what it was done to: a name or an id
	Before  json.RawMessage // nil if there was nothing
	After   json.RawMessage // nil if there is nothing
}

// AuditQuery chooses what Audit lists: what is empty chooses nothing. Actor is an id, a name or a kind; Action is one, or all of a kind
// (user.). From is included, Until is not. Limit is 1 to MaxPage.
type AuditQuery struct {
	Actor, Action, Target string
	From, Until           time.Time
	After                 string // those after this id, which are older
	Limit                 int
}

// audit writes an entry in the transaction of the change. before and after become JSON; nil is nothing. They hold no secret; what has the
// form of one, because somebody put it into a wrong field, is masked.
func (t *scope) audit(action, target string, before, after any) error {
	was, err := auditDetail(before)
	if err != nil {
		return err
	}
	became, err := auditDetail(after)
	if err != nil {
		return err
	}
	class, limit := "change", int64(MaxAuditedChanges)
	switch {
	case strings.HasPrefix(action, "token."):
		class, limit = "token", MaxAuditedTokens
	case strings.HasPrefix(action, "member.log"):
		class, limit = "login", MaxAuditedLogins
	}
	place, number, err := t.auditPlace(class)
	if err != nil {
		return err
	}
	return t.insertAudit(number, class, place, limit, action, target, was, became)
}

// auditServer writes an entry about the server: what becomes of organizations is to be known when their own audit is gone.
func (s *Store) auditServer(t *scope, action, target string, before, after any) error {
	was, err := auditDetail(before)
	if err != nil {
		return err
	}
	became, err := auditDetail(after)
	if err != nil {
		return err
	}
	var number int64
	err = t.tx.QueryRowContext(t.ctx, `UPDATE counters SET value = value + 1 WHERE name = 'server_entries' RETURNING value`).Scan(&number)
	if err != nil {
		return err
	}
	server := s.server(t.ctx, t.tx, t.actor)
	return server.insertAudit(number, "change", number, MaxAuditedChanges, action, target, was, became)
}

// server is the scope of what belongs to no organization but to the server. It has an audit and nothing else.
func (s *Store) server(ctx context.Context, tx *sql.Tx, a Actor) *scope {
	return &scope{ctx: ctx, tx: tx, directory: s.directory, now: s.now(), rand: s.rand, actor: a}
}

// insertAudit writes an entry, and deletes those of its class that are too many.
func (t *scope) insertAudit(number int64, class string, place, limit int64, action, target, was, became string) error {
	address := ""
	if t.actor.Address.IsValid() {
		address = t.actor.Address.Unmap().String()
	}
	_, err := t.exec(`INSERT INTO audit (organization, number, class, place, at, actor_kind, actor_id, actor_name, address, action, target, was, became)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		number, class, place, t.now.UnixMilli(), string(t.actor.Kind), t.actor.ID, access.Redact(t.actor.Name), address, action, access.Redact(target), was, became)
	if err != nil {
		return err
	}
	_, err = t.exec(`DELETE FROM audit WHERE organization = $1 AND class = $2 AND place <= $3`, class, place-limit)
	return err
}

// auditPlace counts an entry: its place in its class, and its number among all.
func (t *scope) auditPlace(class string) (place, number int64, err error) {
	add := func(c string) int {
		if c == class {
			return 1
		}
		return 0
	}
	var changes, tokens, logins int64
	_, err = t.row([]any{&changes, &tokens, &logins}, `UPDATE organizations SET audited_changes = audited_changes + $2,
		audited_tokens = audited_tokens + $3, audited_logins = audited_logins + $4
		WHERE number = $1 RETURNING audited_changes, audited_tokens, audited_logins`, add("change"), add("token"), add("login"))
	switch place = changes; class {
	case "token":
		place = tokens
	case "login":
		place = logins
	}
	return place, changes + tokens + logins, err
}

func auditDetail(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("control: audit: %w", err)
	}
	if len(text) > maxAuditDetail {
		return `{"too_long":` + itoa(len(text)) + `}`, nil
	}
	return access.Redact(string(text)), nil
}

const auditPrefix = "aud_"

func auditID(number int64) string { return fmt.Sprintf("%s%012d", auditPrefix, number) }

// where is a condition that grows. Its arguments begin behind the organization's number.
type where struct {
	text string
	args []any
}

// and adds a condition, in which every ? is the argument.
func (w *where) and(condition string, arg any) {
	w.args = append(w.args, arg)
	w.text += " AND " + strings.ReplaceAll(condition, "?", "$"+itoa(len(w.args)+1))
}

// Audit lists what was done, newest first. Fields: limit, after.
func (o *Organization) Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error) {
	if err := o.may(access.AuditRead); err != nil {
		return nil, err
	}
	w, err := q.where()
	if err != nil {
		return nil, err
	}
	var entries []AuditEntry
	err = o.read(ctx, access.AuditRead, func(t *scope) (err error) {
		entries, err = t.listAudit(w, q.Limit)
		return err
	})
	return entries, err
}

// ServerAudit lists what was done to the server's organizations as such, newest first: which were made and deleted, by whom. For operators.
// Fields: limit, after.
func (s *Store) ServerAudit(ctx context.Context, a Actor, q AuditQuery) ([]AuditEntry, error) {
	if !a.above() {
		return nil, errNotOperator
	}
	w, err := q.where()
	if err != nil {
		return nil, err
	}
	tx, err := s.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	entries, err := s.server(ctx, tx, a).listAudit(w, q.Limit)
	return entries, failed(err)
}

func (t *scope) listAudit(w where, limit int) (entries []AuditEntry, err error) {
	err = t.rows(func(scan func(...any) error) error {
		e, err := scanAudit(scan)
		entries = append(entries, e)
		return err
	}, `SELECT number, at, actor_kind, actor_id, actor_name, address, action, target, was, became
		FROM audit WHERE organization = $1`+w.text+` ORDER BY number DESC LIMIT `+itoa(limit), w.args...)
	return entries, err
}

func (q *AuditQuery) where() (w where, err error) {
	if err := checkLimit(q.Limit); err != nil {
		return w, err
	}
	if q.After != "" {
		number, err := strconv.ParseInt(strings.TrimPrefix(q.After, auditPrefix), 10, 64)
		if err != nil || auditID(number) != q.After {
			return w, fault.Field("after", "must be the id of an entry")
		}
		w.and("number < ?", number)
	}
	if q.Actor != "" {
		w.and("(actor_id = ? OR actor_name = ? OR actor_kind = ?)", access.Redact(q.Actor))
	}
	if kind, ok := strings.CutSuffix(q.Action, "."); ok {
		w.and("action > ?", q.Action)
		w.and("action < ?", kind+"/") // / follows .
	} else if q.Action != "" {
		w.and("action = ?", q.Action)
	}
	if q.Target != "" {
		w.and("target = ?", access.Redact(q.Target)) // as it is kept
	}
	if !q.From.IsZero() {
		w.and("at >= ?", q.From.UnixMilli())
	}
	if !q.Until.IsZero() {
		w.and("at < ?", q.Until.UnixMilli())
	}
	return w, nil
}

func scanAudit(scan func(...any) error) (e AuditEntry, err error) {
	var number, at int64
	var was, became string
	err = scan(&number, &at, &e.Actor.Kind, &e.Actor.ID, &e.Actor.Name, &e.Address, &e.Action, &e.Target, &was, &became)
	e.ID, e.At = auditID(number), fromMillis(at)
	if was != "" {
		e.Before = json.RawMessage(was)
	}
	if became != "" {
		e.After = json.RawMessage(became)
	}
	return e, err
}
