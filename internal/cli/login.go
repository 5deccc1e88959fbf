package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"
)

// loggedIn is the answer to a log-in.
type loggedIn struct {
	Token         string `json:"token"`
	ExpiresAt     string `json:"expires_at"`
	Member        person `json:"member"`
	Organizations []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
		Role string `json:"role"`
	} `json:"organizations"`
}

func newLogIn(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "login --email EMAIL --password-file FILE", Short: "Log in as a person; the token, shown this once, goes into CLOUDSIGNAL_KEY",
		Example: "  CLOUDSIGNAL_KEY=$(cloudsignal login --email grace@example.com --password-file password.txt -o secret)\n" +
			"  export CLOUDSIGNAL_KEY\n" +
			"  cloudsignal whoami",
		Args: cobra.NoArgs,
	}
	email := c.Flags().String("email", "", "e-mail address")
	file := c.Flags().String("password-file", "", "file with the password, - for standard input")
	_ = c.MarkFlagRequired("email")
	_ = c.MarkFlagRequired("password-file")
	return onAPI(c, s, options{anonymous: true, secret: "token", words: personWords}, func(ctx context.Context, a *api, _ []string) error {
		password, err := readSecret("--password-file", *file, a.In)
		if err != nil {
			return err
		}
		body := map[string]any{"email": *email, "password": password}
		return show(ctx, a, http.MethodPost, "/v2/login", nil, body, func(in *loggedIn) []field {
			fields := []field{
				{name: "token", value: in.Token, secret: true},
				{name: "expires", value: moment(in.ExpiresAt)},
				{name: "member", value: in.Member.ID},
				{name: "email", value: in.Member.Email},
			}
			for _, o := range in.Organizations {
				fields = append(fields, field{name: o.Role + " of " + o.ID, value: o.Name})
			}
			return fields
		})
	})
}

func newLogOut(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "logout", Short: "End the session whose token is in CLOUDSIGNAL_KEY",
		Example: "  CLOUDSIGNAL_KEY=$(cloudsignal login --email grace@example.com --password-file password.txt -o secret)\n" +
			"  export CLOUDSIGNAL_KEY\n" +
			"  cloudsignal logout",
		Args: cobra.NoArgs,
	}
	return onAPI(c, s, options{}, func(ctx context.Context, a *api, _ []string) error {
		_, err := a.do(ctx, http.MethodPost, "/v2/logout", nil, nil)
		return err
	})
}

// who is whose credentials they are.
type who struct {
	Kind         string   `json:"kind"`
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	Organization string   `json:"organization"`
	Role         string   `json:"role"`
	Scopes       []string `json:"scopes"`
}

func newWhoAmI(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "whoami", Short: "Say whose the credentials are",
		Example: "  cloudsignal whoami",
		Args:    cobra.NoArgs,
	}
	return onAPI(c, s, options{}, func(ctx context.Context, a *api, _ []string) error {
		return show(ctx, a, http.MethodGet, "/v2/me", nil, nil, func(w *who) []field {
			return []field{
				{name: "kind", value: w.Kind},
				{name: "id", value: w.ID},
				{name: "name", value: w.Name},
				{name: "organization", value: w.Organization},
				{name: "role", value: w.Role},
				{name: "scopes", value: together(w.Scopes)},
			}
		})
	})
}
