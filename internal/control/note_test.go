package control_test

import (
	"net/netip"
	"testing"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// A note is an entry of the audit and no change: nobody is told.
func TestNote(t *testing.T) {
	f := fresh(t)
	ctx := t.Context()
	info := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "Ours"))
	other := must[control.OrganizationInfo](t)(f.CreateOrganization(ctx, control.System(), "Theirs"))
	key, secret, err := f.In(control.System(), info.ID).CreateKey(ctx, control.NewKey{
		Kind: access.RestrictedKey, Name: "Ends sessions", Scopes: []access.Scope{access.SessionsWrite, access.AuditRead},
	})
	f.do(err)
	actor := must[control.Actor](t)(f.Authenticate(ctx, secret, netip.MustParseAddr("192.0.2.7")))
	o := f.In(actor, info.ID)
	f.changes = nil
	before := must[control.OrganizationInfo](t)(f.In(control.System(), info.ID).Info(ctx))
	f.do(o.Note(ctx, access.SessionsWrite, "session.disconnect", "sensor/1", map[string]any{"connected": true}, nil))
	rows := must[[]control.AuditEntry](t)(o.Audit(ctx, control.AuditQuery{Action: "session.disconnect", Limit: 10}))
	want := control.AuditActor{Kind: control.KeyActor, ID: key.ID, Name: "Ends sessions"}
	if len(rows) != 1 || rows[0].Target != "sensor/1" || rows[0].Actor != want || rows[0].Address != "192.0.2.7" || !rows[0].At.Equal(f.now) ||
		string(rows[0].Before) != `{"connected":true}` || rows[0].After != nil {
		t.Errorf("%+v", rows)
	}
	if after := must[control.OrganizationInfo](t)(f.In(control.System(), info.ID).Info(ctx)); after != before || len(f.changes) > 0 {
		t.Errorf("%+v became %+v, announced %+v", before, after, f.changes)
	}
	wants(t, o.Note(ctx, access.RetainedWrite, "retained.delete", "a", nil, nil), fault.Forbidden, "")
	wants(t, f.In(actor, other.ID).Note(ctx, access.SessionsWrite, "session.disconnect", "a", nil, nil), fault.NotFound, "")
	if rows := must[[]control.AuditEntry](t)(o.Audit(ctx, control.AuditQuery{Action: "retained.delete", Limit: 10})); len(rows) > 0 {
		t.Errorf("%+v", rows)
	}
}
