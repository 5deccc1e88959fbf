package control

import (
	"context"
	"encoding/json"
	"time"

	"cloudsignal/internal/fault"
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

// Audit lists what was done, newest first. Fields: limit, after.
func (o *Organization) Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error) {
	return nil, fault.New(fault.Internal, "not there yet")
}
