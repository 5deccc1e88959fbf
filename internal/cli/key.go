package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"
)

// apiKey is a key as the API shows it; Secret only when it was made.
type apiKey struct {
	ID         string   `json:"id"`
	Kind       string   `json:"kind"`
	Name       string   `json:"name"`
	Masked     string   `json:"masked"`
	Scopes     []string `json:"scopes"`
	CreatedAt  string   `json:"created_at"`
	LastUsedAt string   `json:"last_used_at"`
	Secret     string   `json:"secret"`
}

// scopes are what a restricted key may be given, for completion; which there are, the API says.
var scopes = []string{
	"organization:read", "organization:write", "users:read", "users:write", "rules:read", "rules:write", "keys:read", "keys:write",
	"tokens:read", "tokens:write", "sessions:read", "sessions:write", "retained:read", "retained:write", "publish", "audit:read", "usage:read",
}

func newKey(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "key", Short: "API keys"},
		newKeyCreate(s), newKeyList(s), newKeyGet(s), newKeyRotate(s), newKeyRevoke(s))
}

func keyFields(k *apiKey) []field {
	return []field{
		{name: "id", value: k.ID},
		{name: "key", value: k.Secret, secret: true},
		{name: "shown as", value: k.Masked},
		{name: "kind", value: k.Kind},
		{name: "name", value: k.Name},
		{name: "scopes", value: together(k.Scopes)},
		{name: "created", value: moment(k.CreatedAt)},
		{name: "last used", value: moment(k.LastUsedAt)},
	}
}

func newKeyCreate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME", Short: "Make an API key, shown this once",
		Long: "Make an API key, shown this once. A secret key may do everything in the organization, a publishable one may be given to\n" +
			"browsers, a restricted one may do what its scopes say.",
		Example: "  cloudsignal key create deploy --kind restricted --scope users:read --scope users:write",
		Args:    cobra.ExactArgs(1),
	}
	kind := c.Flags().String("kind", "", "secret, publishable or restricted (default: secret, with --scope restricted)")
	allowed := c.Flags().StringArray("scope", nil, "what a restricted key may do, such as users:read; any number")
	o := options{secret: "key", words: words{"name": "NAME", "kind": "--kind", "scopes": "--scope"}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		body := map[string]any{"name": args[0], "kind": *kind}
		if len(*allowed) > 0 {
			body["scopes"] = *allowed
		}
		switch {
		case *kind == "" && len(*allowed) > 0:
			body["kind"] = "restricted"
		case *kind == "":
			body["kind"] = "secret"
		}
		return show(ctx, a, http.MethodPost, "/v2/keys", nil, body, keyFields)
	})
}

func newKeyList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List API keys, masked",
		Example: "  cloudsignal key list",
		Args:    cobra.NoArgs,
	}
	return onAPI(c, s, options{list: true}, func(ctx context.Context, a *api, _ []string) error {
		return list(ctx, a, "/v2/keys", nil, []column[apiKey]{
			{"ID", func(k *apiKey) string { return k.ID }},
			{"NAME", func(k *apiKey) string { return k.Name }},
			{"KIND", func(k *apiKey) string { return k.Kind }},
			{"KEY", func(k *apiKey) string { return k.Masked }},
			{"SCOPES", func(k *apiKey) string { return together(k.Scopes) }},
			{"CREATED", func(k *apiKey) string { return moment(k.CreatedAt) }},
			{"LAST USED", func(k *apiKey) string { return moment(k.LastUsedAt) }},
		})
	})
}

func onKey(c *cobra.Command, s Streams, o options, run func(ctx context.Context, a *api, id string) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	o.args, o.words = []source{ofKeys}, words{"id": "KEY_ID"}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		id, err := given("KEY_ID", args[0])
		if err != nil {
			return err
		}
		return run(ctx, a, id)
	})
}

func newKeyGet(s Streams) *cobra.Command {
	c := &cobra.Command{Use: "get KEY_ID", Short: "Show an API key, masked", Example: "  cloudsignal key get key_t4n8s2x6q1z5"}
	return onKey(c, s, options{}, func(ctx context.Context, a *api, id string) error {
		return show(ctx, a, http.MethodGet, route("v2", "keys", id), nil, nil, keyFields)
	})
}

func newKeyRotate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "rotate KEY_ID", Short: "Replace an API key by another with the same rights, shown this once",
		Example: "  cloudsignal key rotate key_t4n8s2x6q1z5 -o secret > key.txt",
	}
	return onKey(c, s, options{secret: "key"}, func(ctx context.Context, a *api, id string) error {
		return show(ctx, a, http.MethodPost, route("v2", "keys", id, "rotate"), nil, nil, keyFields)
	})
}

func newKeyRevoke(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "revoke KEY_ID", Short: "Revoke an API key; connections that logged in with it end",
		Example: "  cloudsignal key revoke key_h9j3f7d5g2k8",
	}
	return onKey(c, s, options{}, func(ctx context.Context, a *api, id string) error {
		return a.remove(ctx, route("v2", "keys", id), nil)
	})
}
