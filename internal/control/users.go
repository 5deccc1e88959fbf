package control

import (
	"context"
	"errors"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
)

// Bounds of users.
const (
	MaxUsers = 100_000 // of an organization: all are in memory
)

// User is an MQTT user of an organization.
type User struct {
	Name        string
	DisplayName string // empty if there is none
	Disabled    bool
	RuleSet     string // id; empty: the organization's default set
	CreatedAt   time.Time
	PasswordAt  time.Time // when the password was made
}

// NewUser is a user to be made. Without a Password the server makes one.
type NewUser struct {
	Name        string
	DisplayName string
	RuleSet     string
	Password    string
}

// UserUpdate is what UpdateUser changes: what is not nil. An empty RuleSet is the default one.
type UserUpdate struct {
	DisplayName *string
	Disabled    *bool
	RuleSet     *string
}

// CreateUser makes a user. The password that the server made is returned once and kept nowhere; it is empty if one was
// chosen. Fields: name, display_name, rule_set, password. A name that is taken is a Conflict.
func (o *Organization) CreateUser(ctx context.Context, n NewUser) (user User, password string, err error) {
	if err := o.may(access.UsersWrite); err != nil {
		return User{}, "", err
	}
	if err := access.ValidUserName(n.Name); err != nil {
		return User{}, "", err
	}
	if err := checkDisplayName(n.DisplayName); err != nil {
		return User{}, "", err
	}
	password, hash, err := o.store.newPassword(ctx, o.id, n.Password)
	if err != nil {
		return User{}, "", err
	}
	err = o.change(ctx, access.UsersWrite, func(t *scope) (err error) {
		user, err = t.createUser(n, hash)
		return err
	})
	if err != nil {
		return User{}, "", err
	}
	return user, password, nil
}

// newPassword hashes a chosen password, on behalf of an organization, or makes one and returns it.
func (s *Store) newPassword(ctx context.Context, organization, chosen string) (password, hash string, err error) {
	if chosen == "" {
		password, hash, err = access.NewPassword(s.rand)
	} else {
		hash, err = s.verifier.Hash(ctx, s.rand, organization, chosen)
	}
	if r, ok := errors.AsType[*access.Refusal](err); ok && r.Why == access.WhyBusy {
		err = errBusy
	}
	return password, hash, failed(err)
}

var errBusy = fault.New(fault.Unavailable, "too many passwords are being looked at; try again in a moment")

// userDetail is what the audit shows of a user.
type userDetail struct {
	DisplayName string `json:"display_name,omitempty"`
	Disabled    bool   `json:"disabled"`
	RuleSet     string `json:"rule_set,omitempty"`
}

func (u *User) detail() userDetail { return userDetail{u.DisplayName, u.Disabled, u.RuleSet} }

func (t *scope) createUser(n NewUser, hash string) (User, error) {
	if t.directory.Users(t.id) >= MaxUsers { // it is in step, and nobody has to count a hundred thousand rows
		return User{}, fault.New(fault.Exhausted, "an organization has at most %d users; delete one first", MaxUsers)
	}
	if err := t.checkRuleSet(n.RuleSet); err != nil {
		return User{}, err
	}
	made, err := t.exec(`INSERT INTO users (organization, name, display_name, password_hash, disabled, rule_set, created_at, password_at)
		VALUES ($1, $2, $3, $4, FALSE, NULLIF($5, ''), $6, $6) ON CONFLICT DO NOTHING`,
		n.Name, n.DisplayName, hash, n.RuleSet, t.now.UnixMilli())
	if err != nil {
		return User{}, err
	}
	if made == 0 {
		return User{}, &fault.Error{Code: fault.Conflict, Field: "name", Message: "there is already a user with this name"}
	}
	t.users = append(t.users, n.Name)
	u, err := t.user(n.Name)
	if err != nil {
		return User{}, err
	}
	return u, t.audit("user.create", n.Name, nil, u.detail())
}

// checkRuleSet: a user can be given a set of the own organization only.
func (t *scope) checkRuleSet(id string) error {
	if id == "" {
		return nil
	}
	var n int
	found, err := t.row([]any{&n}, `SELECT 1 FROM rule_sets WHERE organization = $1 AND id = $2`, id)
	if err == nil && !found {
		err = fault.Field("rule_set", "there is no rule set %q", id)
	}
	return err
}

func checkDisplayName(s string) error {
	if s == "" {
		return nil
	}
	return access.CheckTitle("display_name", s)
}

const userColumns = `name, display_name, disabled, COALESCE(rule_set, ''), created_at, password_at`

func scanUser(scan func(...any) error) (u User, err error) {
	var created, password int64
	err = scan(&u.Name, &u.DisplayName, &u.Disabled, &u.RuleSet, &created, &password)
	u.CreatedAt, u.PasswordAt = fromMillis(created), fromMillis(password)
	return u, err
}

func (t *scope) user(name string) (u User, err error) {
	found := false
	err = t.rows(func(scan func(...any) error) error {
		found = true
		u, err = scanUser(scan)
		return err
	}, `SELECT `+userColumns+` FROM users WHERE organization = $1 AND name = $2`, name)
	if err == nil && !found {
		err = noUser(name)
	}
	return u, err
}

func noUser(name string) error { return fault.New(fault.NotFound, "there is no user %q", name) }

// User is one user.
func (o *Organization) User(ctx context.Context, name string) (user User, err error) {
	err = o.read(ctx, access.UsersRead, func(t *scope) (err error) {
		user, err = t.user(name)
		return err
	})
	return user, err
}

// ListUsers lists up to limit users (1 to MaxPage) in order of their names, those after the name given.
func (o *Organization) ListUsers(ctx context.Context, after string, limit int) ([]User, error) {
	if err := o.may(access.UsersRead); err != nil {
		return nil, err
	}
	if err := checkLimit(limit); err != nil {
		return nil, err
	}
	var users []User
	err := o.read(ctx, access.UsersRead, func(t *scope) error {
		return t.rows(func(scan func(...any) error) error {
			u, err := scanUser(scan)
			users = append(users, u)
			return err
		}, `SELECT `+userColumns+` FROM users WHERE organization = $1 AND name > $2 ORDER BY name LIMIT $3`, after, limit)
	})
	return users, err
}

// UpdateUser changes a user. Fields: display_name, rule_set.
func (o *Organization) UpdateUser(ctx context.Context, name string, u UserUpdate) (user User, err error) {
	if err := o.may(access.UsersWrite); err != nil {
		return User{}, err
	}
	if u.DisplayName != nil {
		if err := checkDisplayName(*u.DisplayName); err != nil {
			return User{}, err
		}
	}
	err = o.change(ctx, access.UsersWrite, func(t *scope) (err error) {
		if user, err = t.user(name); err != nil {
			return err
		}
		if u.RuleSet != nil {
			if err := t.checkRuleSet(*u.RuleSet); err != nil {
				return err
			}
		}
		before := user.detail()
		set(&user.DisplayName, u.DisplayName)
		set(&user.Disabled, u.Disabled)
		set(&user.RuleSet, u.RuleSet)
		if before == user.detail() {
			return errUnchanged
		}
		t.users = append(t.users, name)
		_, err = t.exec(`UPDATE users SET display_name = $3, disabled = $4, rule_set = NULLIF($5, '') WHERE organization = $1 AND name = $2`,
			name, user.DisplayName, user.Disabled, user.RuleSet)
		if err != nil {
			return err
		}
		return t.audit("user.update", name, before, user.detail())
	})
	if err != nil {
		return User{}, err
	}
	return user, nil
}

// RotatePassword gives a user a new password, made by the server and returned once. The old one is valid no longer.
func (o *Organization) RotatePassword(ctx context.Context, name string) (password string, err error) {
	password, hash, err := o.store.newPassword(ctx, o.id, "")
	if err != nil {
		return "", err
	}
	if err := o.setPassword(ctx, name, hash, false); err != nil {
		return "", err
	}
	return password, nil
}

// SetPassword gives a user a chosen password. Fields: password.
func (o *Organization) SetPassword(ctx context.Context, name, password string) error {
	if err := o.may(access.UsersWrite); err != nil {
		return err
	}
	if err := access.CheckPassword(password); err != nil {
		return err
	}
	_, hash, err := o.store.newPassword(ctx, o.id, password)
	if err != nil {
		return err
	}
	return o.setPassword(ctx, name, hash, true)
}

func (o *Organization) setPassword(ctx context.Context, name, hash string, chosen bool) error {
	return o.change(ctx, access.UsersWrite, func(t *scope) error {
		n, err := t.exec(`UPDATE users SET password_hash = $3, password_at = $4 WHERE organization = $1 AND name = $2`,
			name, hash, t.now.UnixMilli())
		if err == nil && n == 0 {
			err = noUser(name)
		}
		if err != nil {
			return err
		}
		t.users = append(t.users, name)
		return t.audit("user.rotate", name, nil, map[string]bool{"chosen": chosen})
	})
}

// DeleteUser deletes a user.
func (o *Organization) DeleteUser(ctx context.Context, name string) error {
	return o.change(ctx, access.UsersWrite, func(t *scope) error {
		u, err := t.user(name)
		if err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM users WHERE organization = $1 AND name = $2`, name); err != nil {
			return err
		}
		t.users = append(t.users, name)
		return t.audit("user.delete", name, u.detail(), nil)
	})
}
