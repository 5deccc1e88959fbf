package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// minted is the answer of the token service.
type minted struct {
	TokenID     string `json:"token_id"`
	Credentials struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"mqtt_credentials"`
	Email     string `json:"user_email"`
	ExpiresAt string `json:"expires_at"`
	RefreshAt string `json:"refresh_recommended_at"`
}

func mintedFields(m *minted) []field {
	return []field{
		{name: "token", value: m.TokenID},
		{name: "username", value: m.Credentials.Username},
		{name: "password", value: m.Credentials.Password, secret: true},
		{name: "email", value: m.Email},
		{name: "expires", value: moment(m.ExpiresAt)},
		{name: "refresh at", value: moment(m.RefreshAt)},
	}
}

// token is a temporary token as the API shows it.
type token struct {
	ID          string   `json:"token_id"`
	Username    string   `json:"username"`
	Provider    string   `json:"provider"`
	Subject     string   `json:"subject"`
	Email       string   `json:"user_email"`
	RuleSet     string   `json:"rule_set"`
	Permissions []string `json:"permissions"`
	Topics      []string `json:"topics"`
	CreatedAt   string   `json:"created_at"`
	ExpiresAt   string   `json:"expires_at"`
	RefreshAt   string   `json:"refresh_recommended_at"`
	RevokedAt   string   `json:"revoked_at"`
}

func tokenFields(t *token) []field {
	return []field{
		{name: "token", value: t.ID},
		{name: "username", value: t.Username},
		{name: "provider", value: t.Provider},
		{name: "subject", value: t.Subject},
		{name: "email", value: t.Email},
		{name: "rule set", value: t.RuleSet},
		{name: "permissions", value: together(t.Permissions)},
		{name: "topics", value: together(t.Topics)},
		{name: "created", value: moment(t.CreatedAt)},
		{name: "expires", value: moment(t.ExpiresAt)},
		{name: "refresh at", value: moment(t.RefreshAt)},
		{name: "revoked", value: moment(t.RevokedAt)},
	}
}

func newToken(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "token", Short: "Temporary tokens: credentials that end by themselves"},
		newTokenCreate(s), newTokenRefresh(s), newTokenList(s), newTokenGet(s), newTokenRevoke(s))
}

func newTokenCreate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "create EMAIL", Short: "Make a token for a person; its password is shown this once",
		Example: "  cloudsignal token create ada@example.com --ttl 15m --permission subscribe --topic 'agents/#'",
		Args:    cobra.ExactArgs(1),
	}
	flags := c.Flags()
	ttl := flags.Duration("ttl", 0, "until it ends, whole seconds (default: 1h)")
	keep := flags.Bool("keep", false, "leave the person's other tokens as they are (default: they are revoked)")
	permissions := flags.StringArray("permission", nil, "publish or subscribe, to narrow what the rules allow; any number")
	topics := flags.StringArray("topic", nil, "topic filter, to narrow what the rules allow; any number")
	set := flags.String("rule-set", "", "rule set that judges it, name or id (default: the organization's default set)")
	o := options{secret: "password", words: words{
		"user_email": "EMAIL", "ttl": "--ttl", "permissions": "--permission", "topics": "--topic", "rule_set": "--rule-set",
		"replace_existing": "--keep", "organization_id": "--organization",
	}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		if *ttl < 0 || *ttl%time.Second != 0 {
			return fmt.Errorf("--ttl %s: want whole seconds", *ttl)
		}
		organization, err := a.ownOrganization(ctx)
		if err != nil {
			return err
		}
		body := map[string]any{"organization_id": organization, "user_email": args[0], "replace_existing": !*keep}
		if *ttl > 0 {
			body["ttl"] = int64(*ttl / time.Second)
		}
		if len(*permissions) > 0 {
			body["permissions"] = *permissions
		}
		if len(*topics) > 0 {
			body["topics"] = *topics
		}
		if *set != "" {
			if body["rule_set"], err = a.ruleSetID(ctx, *set); err != nil {
				return err
			}
		}
		return show(ctx, a, http.MethodPost, "/v2/tokens/create", nil, body, mintedFields)
	})
}

func newTokenRefresh(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "refresh TOKEN_ID --password-file FILE", Short: "Give a token another password and a later end",
		Long: "Give a token another password, shown this once, and a later end. The token's present password is all that is needed; it\n" +
			"works until its own end, and connections go on.",
		Example: "  cloudsignal token refresh tok_m2p5r8v1y4b7 --password-file token.txt -o secret > renewed.txt",
		Args:    cobra.ExactArgs(1),
	}
	file := c.Flags().String("password-file", "", "file with the token's present password, - for standard input")
	_ = c.MarkFlagRequired("password-file")
	o := options{anonymous: true, secret: "password", words: words{"token_id": "TOKEN_ID", "current_token_password": "--password-file"}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		password, err := readSecret("--password-file", *file, a.In)
		if err != nil {
			return err
		}
		body := map[string]any{"token_id": args[0], "current_token_password": password}
		return show(ctx, a, http.MethodPost, "/v2/tokens/refresh", nil, body, mintedFields)
	})
}

func newTokenList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List tokens",
		Example: "  cloudsignal token list",
		Args:    cobra.NoArgs,
	}
	user := c.Flags().String("user", "", "only of this user name, token_...")
	return onAPI(c, s, options{list: true, words: words{"user": "--user"}}, func(ctx context.Context, a *api, _ []string) error {
		query := url.Values{}
		if *user != "" {
			name, err := a.userName(ctx, *user)
			if err != nil {
				return err
			}
			query.Set("user", name)
		}
		return list(ctx, a, "/v2/tokens", query, []column[token]{
			{"TOKEN", func(t *token) string { return t.ID }},
			{"USERNAME", func(t *token) string { return t.Username }},
			{"EMAIL", func(t *token) string { return t.Email }},
			{"PROVIDER", func(t *token) string { return t.Provider }},
			{"EXPIRES", func(t *token) string { return moment(t.ExpiresAt) }},
			{"REVOKED", func(t *token) string { return moment(t.RevokedAt) }},
		})
	})
}

func onToken(c *cobra.Command, s Streams, run func(ctx context.Context, a *api, id string) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	return onAPI(c, s, options{args: []source{ofTokens}, words: words{"id": "TOKEN_ID"}}, func(ctx context.Context, a *api, args []string) error {
		id, err := given("TOKEN_ID", args[0])
		if err != nil {
			return err
		}
		return run(ctx, a, id)
	})
}

func newTokenGet(s Streams) *cobra.Command {
	c := &cobra.Command{Use: "get TOKEN_ID", Short: "Show a token", Example: "  cloudsignal token get tok_m2p5r8v1y4b7"}
	return onToken(c, s, func(ctx context.Context, a *api, id string) error {
		return show(ctx, a, http.MethodGet, route("v2", "tokens", id), nil, nil, tokenFields)
	})
}

func newTokenRevoke(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "revoke TOKEN_ID", Short: "End a token now, and its connections",
		Example: "  cloudsignal token revoke tok_c6e9g3j7l1n4",
	}
	return onToken(c, s, func(ctx context.Context, a *api, id string) error {
		return a.remove(ctx, route("v2", "tokens", id), nil)
	})
}
