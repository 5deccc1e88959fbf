package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"
)

// signedUp is the answer to a sign-up. The session's token is in its JSON only.
type signedUp struct {
	Member       person       `json:"member"`
	Organization organization `json:"organization"`
	SecretKey    string       `json:"secret_key"`
}

// person is a member as the API shows it.
type person struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

var personWords = words{"name": "--name", "email": "--email", "password": "--password-file"}

func newSignUp(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "signup --name NAME --email EMAIL --password-file FILE", Short: "Sign up: make an organization, whose secret key is shown this once",
		Example: "  cloudsignal signup --name Ada --email ada@example.com --password-file password.txt",
		Args:    cobra.NoArgs,
	}
	flags := c.Flags()
	name := flags.String("name", "", "your name")
	email := flags.String("email", "", "your e-mail address, to log in with")
	file := flags.String("password-file", "", "file with your password, - for standard input")
	for _, f := range []string{"name", "email", "password-file"} {
		_ = c.MarkFlagRequired(f)
	}
	return onAPI(c, s, options{anonymous: true, secret: "secret key", words: personWords}, func(ctx context.Context, a *api, _ []string) error {
		password, err := readSecret("--password-file", *file, a.In)
		if err != nil {
			return err
		}
		body := map[string]any{"name": *name, "email": *email, "password": password}
		return show(ctx, a, http.MethodPost, "/v2/signup", nil, body, func(up *signedUp) []field {
			return []field{
				{name: "organization", value: up.Organization.ID},
				{name: "name", value: up.Organization.Name},
				{name: "secret key", value: up.SecretKey, secret: true},
				{name: "member", value: up.Member.ID},
				{name: "email", value: up.Member.Email},
			}
		})
	})
}
