package api

import (
	"context"
	"net/http"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
)

// User is an MQTT user as it is shown. It has a name outside only so that answers can embed it, as Key does.
type User struct {
	Name        string `json:"name" example:"agent-01"`
	Username    string `json:"username" doc:"To connect with: name@organization." example:"agent-01@org_k7xm4pqr2n5t"`
	DisplayName string `json:"display_name" example:"The first agent"`
	Disabled    bool   `json:"disabled" doc:"It cannot connect." example:"false"`
	RuleSet     string `json:"rule_set" doc:"The id of the set that judges the user; empty: the default one." example:"rs_k7xm4pqr2n5t"`
	CreatedAt   string `json:"created_at" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	PasswordAt  string `json:"password_at" format:"date-time" doc:"When the password was made." example:"2026-11-03T09:30:00.000Z"`
}

func showUser(ctx context.Context, u control.User) User {
	return User{
		Name: u.Name, Username: username(ctx, u.Name), DisplayName: u.DisplayName, Disabled: u.Disabled, RuleSet: u.RuleSet,
		CreatedAt: stamp(u.CreatedAt), PasswordAt: stamp(u.PasswordAt),
	}
}

// username is what a user of the caller's organization connects with.
func username(ctx context.Context, name string) string {
	return name + "@" + callerOf(ctx).actor.Organization
}

type userPath struct {
	Name string `path:"name" maxLength:"64" example:"agent-01"`
}

type oneUser struct{ Body User }

type newUserInput struct {
	Body struct {
		Name        string `json:"name" minLength:"1" maxLength:"64" doc:"Letters, digits, - and _." example:"agent-01"`
		DisplayName string `json:"display_name,omitempty" maxLength:"100" example:"The first agent"`
		RuleSet     string `json:"rule_set,omitempty" maxLength:"64" doc:"The id of the set that judges the user; empty: the default one." example:"rs_k7xm4pqr2n5t"`
		Password    string `json:"password,omitempty" minLength:"8" maxLength:"256" doc:"One is made if none is given. 256 bytes at most." example:"correct horse battery staple"`
	} `nameHint:"NewUser"`
}

type createdUser struct {
	Body struct {
		User
		Password string `json:"password,omitempty" doc:"The one that was made. It is shown once." example:"pw_..."`
	} `nameHint:"CreatedUser"`
}

type userChange struct {
	Name string `path:"name" maxLength:"64" example:"agent-01"`
	Body struct {
		DisplayName *string `json:"display_name,omitempty" maxLength:"100" example:"The second agent"`
		Disabled    *bool   `json:"disabled,omitempty" doc:"Its connections end at once." example:"true"`
		RuleSet     *string `json:"rule_set,omitempty" maxLength:"64" doc:"Empty: the default one." example:"rs_k7xm4pqr2n5t"`
	} `nameHint:"UserChange"`
}

type rotateUser struct {
	Name string `path:"name" maxLength:"64" example:"agent-01"`
	Body *struct {
		Password string `json:"password,omitempty" minLength:"8" maxLength:"256" doc:"One is made if none is given. 256 bytes at most." example:"correct horse battery staple"`
	} `nameHint:"NewPassword"`
}

type rotatedUser struct {
	Body struct {
		Username string `json:"username" example:"agent-01@org_k7xm4pqr2n5t"`
		Password string `json:"password,omitempty" doc:"The one that was made. It is shown once." example:"pw_..."`
	} `nameHint:"RotatedUser"`
}

func (a *API) registerUsers() {
	const tag, all, one = "users", "/v2/users", "/v2/users/{name}"
	route(a, operation{
		id: "list-users", method: http.MethodGet, path: all, tag: tag, summary: "List users", text: "In order of their names.", scope: access.UsersRead,
	}, a.listUsers)
	route(a, operation{
		id: "create-user", method: http.MethodPost, path: all, tag: tag, summary: "Make a user", scope: access.UsersWrite,
		status: http.StatusCreated, also: []int{http.StatusConflict},
	}, a.createUser)
	route(a, operation{
		id: "get-user", method: http.MethodGet, path: one, tag: tag, summary: "Get a user", scope: access.UsersRead,
	}, func(ctx context.Context, in *userPath) (*oneUser, error) {
		u, err := a.own(ctx).User(ctx, in.Name)
		return &oneUser{Body: showUser(ctx, u)}, err
	})
	route(a, operation{
		id: "update-user", method: http.MethodPatch, path: one, tag: tag, summary: "Change a user",
		text: "Fields that are left out stay. What changes is in force on live connections at once.", scope: access.UsersWrite,
	}, func(ctx context.Context, in *userChange) (*oneUser, error) {
		u, err := a.own(ctx).UpdateUser(ctx, in.Name, control.UserUpdate(in.Body))
		return &oneUser{Body: showUser(ctx, u)}, err
	})
	route(a, operation{
		id: "delete-user", method: http.MethodDelete, path: one, tag: tag, summary: "Delete a user", text: "Its connections end at once.",
		scope: access.UsersWrite,
	}, func(ctx context.Context, in *userPath) (*nothing, error) {
		return nil, a.own(ctx).DeleteUser(ctx, in.Name)
	})
	route(a, operation{
		id: "rotate-user", method: http.MethodPost, path: one + "/rotate", tag: tag, summary: "Give a user another password",
		text: "The old one is valid no longer, and connections made with it end at once.", scope: access.UsersWrite,
	}, a.rotateUser)
}

func (a *API) listUsers(ctx context.Context, in *Page) (*listed[User], error) {
	after, err := in.after("users")
	if err != nil {
		return nil, err
	}
	users, err := a.own(ctx).ListUsers(ctx, after, in.fetch())
	if err != nil {
		return nil, err
	}
	return pageOf(in, "users", users, func(u control.User) string { return u.Name },
		func(u control.User) User { return showUser(ctx, u) }), nil
}

func (a *API) createUser(ctx context.Context, in *newUserInput) (*createdUser, error) {
	u, password, err := a.own(ctx).CreateUser(ctx, control.NewUser(in.Body))
	if err != nil {
		return nil, err
	}
	out := new(createdUser)
	out.Body.User, out.Body.Password = showUser(ctx, u), password
	return out, nil
}

func (a *API) rotateUser(ctx context.Context, in *rotateUser) (*rotatedUser, error) {
	out := new(rotatedUser)
	out.Body.Username = username(ctx, in.Name)
	var err error
	if in.Body != nil && in.Body.Password != "" {
		err = a.own(ctx).SetPassword(ctx, in.Name, in.Body.Password)
	} else {
		out.Body.Password, err = a.own(ctx).RotatePassword(ctx, in.Name)
	}
	return out, err
}
