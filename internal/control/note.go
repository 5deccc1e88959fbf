package control

import (
	"context"
	"database/sql"

	"cloudsignal/internal/access"
)

// Note writes an audit entry about something that is done outside of this database, such as ending a session, if the actor may do what
// needed stands for. before and after become JSON; nil is nothing. They hold no secret.
func (o *Organization) Note(ctx context.Context, needed access.Scope, action, target string, before, after any) error {
	if err := o.may(needed); err != nil {
		return err
	}
	return o.store.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		t, err := o.store.scope(ctx, tx, o.actor, o.id)
		if err == nil {
			err = t.audit(action, target, before, after)
		}
		if err != nil {
			return err
		}
		return tx.Commit()
	})
}
