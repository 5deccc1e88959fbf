package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// Environment variables of the command line.
const (
	envKey          = "CLOUDSIGNAL_KEY"
	envCredentials  = "CLOUDSIGNAL_CREDENTIALS"
	envOrganization = "CLOUDSIGNAL_ORGANIZATION"
	envAPI          = "CLOUDSIGNAL_API"
	envCA           = "CLOUDSIGNAL_CA"
)

// maxCredentials bounds files with credentials or a password, in bytes.
const maxCredentials = 1 << 20

// bootstrap is the file that a server writes at its first start.
type bootstrap struct {
	Organization string `json:"organization"`
	Users        []struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"users"`
	SecretKey   string `json:"secret_key"`
	OperatorKey string `json:"operator_key"`
}

// readBootstrap reads such a file; name is the flag or variable that names it.
func readBootstrap(name, file string) (*bootstrap, error) {
	text, err := readFile(file, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var b bootstrap
	if err := json.Unmarshal(text, &b); err != nil || b.Organization == "" { // the error might show what is in the file
		return nil, fmt.Errorf("%s: %s is not a bootstrap.json", name, file)
	}
	return &b, nil
}

// login finds a user, or "server" with the secret key.
func (b *bootstrap) login(as string) (username, password string, err error) {
	if as == "server" {
		return "server@" + b.Organization, b.SecretKey, nil
	}
	names := []string{"server"}
	for _, u := range b.Users {
		name, _, _ := strings.Cut(u.Username, "@")
		if name == as || u.Username == as {
			return u.Username, u.Password, nil
		}
		names = append(names, name)
	}
	return "", "", fmt.Errorf("--as %q: want one of %s", as, strings.Join(names, ", "))
}

// key is the API key of the file for a command: that of the server's operator for what only an operator may do and for
// other organizations than the file's own, else that of the organization.
func (b *bootstrap) key(operator bool, organization string) string {
	if b.OperatorKey != "" && (operator || organization != "" && organization != b.Organization) {
		return b.OperatorKey
	}
	return b.SecretKey
}

var keyForm = regexp.MustCompile(`^[a-z]{2,3}_[A-Za-z0-9_-]{1,500}$`)

// environmentKey is CLOUDSIGNAL_KEY, "" if it is not set.
func environmentKey() (string, error) {
	key := strings.TrimSpace(os.Getenv(envKey))
	if key != "" && !keyForm.MatchString(key) {
		return "", errors.New(envKey + " is no API key, which looks like sk_ and 39 letters and digits (for serve it names a key file)")
	}
	return key, nil
}

// readSecret reads the file that a flag names, - for standard input, without the line's end.
func readSecret(flag, file string, in io.Reader) (string, error) {
	b, err := readFile(file, in)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	secret := string(bytes.TrimRight(b, "\r\n"))
	if secret == "" {
		return "", fmt.Errorf("%s: %s is empty", flag, file)
	}
	return secret, nil
}

// readFile reads a file of at most maxCredentials bytes, standard input for - if there is one.
func readFile(file string, in io.Reader) ([]byte, error) {
	if file != "-" || in == nil {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // nothing was written
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxCredentials+1))
	if err == nil && len(b) > maxCredentials {
		err = fmt.Errorf("%s has more than %d bytes", file, maxCredentials)
	}
	return b, err
}
