package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

type auditInput struct {
	Page
	Actor  string    `query:"actor" maxLength:"256" doc:"Who did it: an id, a name, or a kind." example:"key_k7xm4pqr2n5t"`
	Action string    `query:"action" maxLength:"64" doc:"What was done; one that ends in a dot is all of its kind." example:"user."`
	Target string    `query:"target" maxLength:"256" doc:"What it was done to." example:"agent-01"`
	From   time.Time `query:"from" doc:"Not before this time, RFC 3339." example:"2026-11-01T00:00:00Z"`
	Until  time.Time `query:"until" doc:"Before this time, RFC 3339." example:"2026-12-01T00:00:00Z"`
}

type auditActor struct {
	Kind control.ActorKind `json:"kind" enum:"key,member,operator,system,token" example:"key"`
	ID   string            `json:"id" example:"key_k7xm4pqr2n5t"`
	Name string            `json:"name" example:"First key"`
}

type auditEntry struct {
	ID      string          `json:"id" example:"aud_0001k7xm4pqr2n5t"`
	At      string          `json:"at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	Actor   auditActor      `json:"actor"`
	Address string          `json:"address" doc:"That it came from; empty if the server itself did it." example:"192.0.2.7"`
	Action  string          `json:"action" example:"user.create"`
	Target  string          `json:"target" example:"agent-01"`
	Before  json.RawMessage `json:"before,omitempty" doc:"What there was."`
	After   json.RawMessage `json:"after,omitempty" doc:"What there is."`
}

func showAuditEntry(e control.AuditEntry) auditEntry {
	return auditEntry{
		ID: e.ID, At: stamp(e.At), Actor: auditActor(e.Actor), Address: e.Address, Action: e.Action, Target: e.Target, Before: e.Before, After: e.After,
	}
}

func (a *API) registerAudit() {
	route(a, operation{
		id: "list-audit", method: http.MethodGet, path: "/v2/audit", tag: "audit", summary: "What was done, by whom",
		text: "Every change, and every log-in of a member, the newest first. An operator who names no organization gets the server's own entries: " +
			"which organizations were made and deleted.",
		scope: access.AuditRead, above: true,
	}, a.listAudit)
}

func (a *API) listAudit(ctx context.Context, in *auditInput) (*listed[auditEntry], error) {
	after, err := in.after("audit")
	if err != nil {
		return nil, err
	}
	q := control.AuditQuery{
		Actor: in.Actor, Action: in.Action, Target: in.Target, From: in.From, Until: in.Until, After: after, Limit: in.fetch(),
	}
	var entries []control.AuditEntry
	if actor := callerOf(ctx).actor; actor.Organization == "" {
		entries, err = a.config.Store.ServerAudit(ctx, actor, q)
	} else {
		entries, err = a.own(ctx).Audit(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	return pageOf(&in.Page, "audit", entries, func(e control.AuditEntry) string { return e.ID }, showAuditEntry), nil
}
