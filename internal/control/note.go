package control

import (
	"context"

	"cloudsignal/internal/access"
)

// Note writes an audit entry about something that is done outside of this database.
func (o *Organization) Note(ctx context.Context, needed access.Scope, action, target string, before, after any) error {
	return nil
}
