package control

import (
	"context"
	"database/sql"
	"errors"

	"cloudsignal/internal/access"
)

// Bootstrap is what the first start made: all that is needed to connect. It holds secrets that are kept nowhere else.
type Bootstrap struct {
	Organization string          `json:"organization"`
	Users        []BootstrapUser `json:"users"`
	SecretKey    string          `json:"secret_key"`
	OperatorKey  string          `json:"operator_key"`
}

// BootstrapUser is a user with the name to connect with (agent-01@org_k7xm4pqr2n5t) and its password.
type BootstrapUser struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// firstRules are the rules of the documentation's example, for the users of firstUsers.
var (
	firstUsers = []string{"agent-01", "dashboard"}
	firstRules = []access.Rule{
		{User: "agent-01", Topic: "agents/agent-01/#", Permission: access.PermitPublish, Effect: access.Allow},
		{User: "agent-01", Topic: "agents/agent-01/inbox", Permission: access.PermitSubscribe, Effect: access.Allow},
		{User: "dashboard", Topic: "commands/#", Permission: access.PermitPublish, Effect: access.Allow},
		{User: "dashboard", Topic: "agents/#", Permission: access.PermitSubscribe, Effect: access.Allow},
	}
)

// Bootstrap makes a first organization, with users, a default rule set and a secret key, and a key of the operator, if there is none at all. save is
// called before the commit and must have kept its argument safely when it returns nil; if it fails, nothing is made. After
// a crash in between what was saved opens nothing, and the next Bootstrap makes and saves anew.
func (s *Store) Bootstrap(ctx context.Context, save func(Bootstrap) error) (made bool, err error) {
	var unsaved error
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM organizations`).Scan(&there); err != nil || there > 0 {
			return err
		}
		t, err := s.createOrganization(ctx, tx, System(), firstName)
		if err != nil {
			return err
		}
		b, err := s.fill(t)
		if err != nil {
			return err
		}
		if unsaved = save(b); unsaved != nil {
			return nil
		}
		made = true
		return s.commit(t)
	})
	if err = errors.Join(err, unsaved); err != nil {
		return false, err
	}
	return made, nil
}

// fill gives a new organization what a first one has.
func (s *Store) fill(t *scope) (Bootstrap, error) {
	b := Bootstrap{Organization: t.id}
	for _, name := range firstUsers {
		password, hash, err := s.newPassword(t.ctx, t.id, "")
		if err != nil {
			return Bootstrap{}, err
		}
		if _, err := t.createUser(NewUser{Name: name}, hash); err != nil {
			return Bootstrap{}, err
		}
		b.Users = append(b.Users, BootstrapUser{Username: name + "@" + t.id, Password: password})
	}
	if _, err := t.createRuleSet(NewRuleSet{Name: "Default", Default: true, Rules: firstRules}); err != nil {
		return Bootstrap{}, err
	}
	var err error
	if _, b.SecretKey, err = t.createKey(NewKey{Kind: access.SecretKey, Name: "First key"}); err != nil {
		return Bootstrap{}, err
	}
	b.OperatorKey, err = createOperatorKey(t.ctx, t.tx, t.rand, t.now)
	return b, err
}
