package cli

import (
	"context"
	"errors"
	"net/http"

	"github.com/spf13/cobra"
)

// user is an MQTT user as the API shows it; Password only when it was made.
type user struct {
	Name        string `json:"name"`
	Username    string `json:"username"`
	DisplayName string `json:"display_name"`
	Disabled    bool   `json:"disabled"`
	RuleSet     string `json:"rule_set"`
	CreatedAt   string `json:"created_at"`
	PasswordAt  string `json:"password_at"`
	Password    string `json:"password"`
}

var userWords = words{"name": "NAME", "display_name": "--display-name", "rule_set": "--rule-set", "password": "--password-file"}

func newUser(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "user", Short: "MQTT users"},
		newUserCreate(s), newUserList(s), newUserGet(s), newUserRotate(s), newUserDisabled(s, "disable", true), newUserDisabled(s, "enable", false),
		newUserSet(s), newUserDelete(s), newUserTerminate(s))
}

func userFields(u *user) []field {
	return []field{
		{name: "username", value: u.Username},
		{name: "password", value: u.Password, secret: true},
		{name: "display name", value: u.DisplayName},
		{name: "disabled", value: yes(u.Disabled)},
		{name: "rule set", value: u.RuleSet},
		{name: "created", value: moment(u.CreatedAt)},
		{name: "password made", value: moment(u.PasswordAt)},
	}
}

// chosen reads the password of --password-file into a request's body.
func chosen(a *api, file string, body map[string]any) error {
	if file == "" {
		return nil
	}
	if a.output == "secret" {
		return errors.New("--output secret: a password that you chose is not printed")
	}
	password, err := readSecret("--password-file", file, a.In)
	body["password"] = password
	return err
}

func newUserCreate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a user; its password is shown this once",
		Example: "  cloudsignal user create pump-07 --display-name 'Pump 7'",
		Args:    cobra.ExactArgs(1),
	}
	display := c.Flags().String("display-name", "", "a name for people")
	set := c.Flags().String("rule-set", "", "rule set that judges it, name or id (default: the organization's default set)")
	file := c.Flags().String("password-file", "", "file with a password of your own, - for standard input (default: one is made)")
	return onAPI(c, s, options{secret: "password", words: userWords}, func(ctx context.Context, a *api, args []string) error {
		body := map[string]any{"name": args[0]}
		if *display != "" {
			body["display_name"] = *display
		}
		if err := chosen(a, *file, body); err != nil {
			return err
		}
		if *set != "" {
			id, err := a.ruleSetID(ctx, *set)
			if err != nil {
				return err
			}
			body["rule_set"] = id
		}
		return show(ctx, a, http.MethodPost, "/v2/users", nil, body, userFields)
	})
}

func newUserList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List users",
		Example: "  cloudsignal user list -o json",
		Args:    cobra.NoArgs,
	}
	return onAPI(c, s, options{list: true}, func(ctx context.Context, a *api, _ []string) error {
		return list(ctx, a, "/v2/users", nil, []column[user]{
			{"NAME", func(u *user) string { return u.Name }},
			{"DISPLAY NAME", func(u *user) string { return u.DisplayName }},
			{"DISABLED", func(u *user) string { return yes(u.Disabled) }},
			{"RULE SET", func(u *user) string { return u.RuleSet }},
			{"CREATED", func(u *user) string { return moment(u.CreatedAt) }},
		})
	})
}

// onUser makes a command about one user: path is the user's.
func onUser(c *cobra.Command, s Streams, o options, run func(ctx context.Context, a *api, name string) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	o.args = []source{ofUsers}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		name, err := a.userName(ctx, args[0])
		if err != nil {
			return err
		}
		return run(ctx, a, name)
	})
}

func newUserGet(s Streams) *cobra.Command {
	c := &cobra.Command{Use: "get NAME", Short: "Show a user", Example: "  cloudsignal user get agent-01"}
	return onUser(c, s, options{}, func(ctx context.Context, a *api, name string) error {
		return show(ctx, a, http.MethodGet, route("v2", "users", name), nil, nil, userFields)
	})
}

func newUserRotate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Give a user another password, shown this once; its connections end",
		Example: "  cloudsignal user rotate agent-01 -o secret > agent-01.txt",
	}
	file := c.Flags().String("password-file", "", "file with a password of your own, - for standard input (default: one is made)")
	return onUser(c, s, options{secret: "password", words: userWords}, func(ctx context.Context, a *api, name string) error {
		body := map[string]any{}
		if err := chosen(a, *file, body); err != nil {
			return err
		}
		return show(ctx, a, http.MethodPost, route("v2", "users", name, "rotate"), nil, body, func(u *user) []field { return userFields(u)[:2] })
	})
}

func newUserDisabled(s Streams, verb string, disabled bool) *cobra.Command {
	short := "Let a user connect again"
	if disabled {
		short = "End a user's connections and let it not connect"
	}
	c := &cobra.Command{Use: verb + " NAME", Short: short, Example: "  cloudsignal user " + verb + " agent-01"}
	return onUser(c, s, options{}, func(ctx context.Context, a *api, name string) error {
		return show(ctx, a, http.MethodPatch, route("v2", "users", name), nil, map[string]any{"disabled": disabled}, userFields)
	})
}

func newUserSet(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a user's display name or rule set",
		Example: "  cloudsignal user set agent-01 --display-name 'Pump room' --rule-set ''",
	}
	display := c.Flags().String("display-name", "", "a name for people, '' for none")
	set := c.Flags().String("rule-set", "", "rule set that judges it, name or id; '' for the organization's default set")
	return onUser(c, s, options{words: userWords}, func(ctx context.Context, a *api, name string) error {
		body := map[string]any{}
		if c.Flags().Changed("display-name") {
			body["display_name"] = *display
		}
		if c.Flags().Changed("rule-set") {
			id, err := a.ruleSetID(ctx, *set)
			if err != nil {
				return err
			}
			body["rule_set"] = id
		}
		if len(body) == 0 {
			return errors.New("give what to change: --display-name, --rule-set")
		}
		return show(ctx, a, http.MethodPatch, route("v2", "users", name), nil, body, userFields)
	})
}

func newUserDelete(s Streams) *cobra.Command {
	c := &cobra.Command{Use: "delete NAME", Short: "Delete a user; its connections end", Example: "  cloudsignal user delete pump-08"}
	return onUser(c, s, options{}, func(ctx context.Context, a *api, name string) error {
		return a.remove(ctx, route("v2", "users", name), nil)
	})
}

func newUserTerminate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "terminate NAME", Short: "End a user's connections; it may connect again",
		Example: "  cloudsignal user terminate agent-01",
	}
	type terminated struct {
		Username string `json:"username"`
		Sessions int64  `json:"sessions_terminated"`
	}
	return onUser(c, s, options{}, func(ctx context.Context, a *api, name string) error {
		return show(ctx, a, http.MethodPost, route("v2", "utilities", "users", name, "terminate"), nil, nil, func(t *terminated) []field {
			return []field{{name: "username", value: t.Username}, {name: "connections ended", value: number(t.Sessions)}}
		})
	})
}
