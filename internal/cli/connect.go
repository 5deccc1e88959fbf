package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cloudsignal/internal/client"
	"cloudsignal/internal/mqtt"
)

// connectFlags say where to connect and as whom.
type connectFlags struct {
	url, username, passwordFile, ca string
	credentials, as                 string
	clientID, protocol              string
	keepAlive                       uint16
	timeout                         time.Duration
	sessionExpiry                   time.Duration // registered by who can go on with a session
}

func (f *connectFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "url", "", "address: mqtts://HOST:8883, wss://HOST:18885/ (CLOUDSIGNAL_URL; default mqtts://localhost:8883)")
	flags.StringVarP(&f.username, "username", "u", "", "user name, NAME@ORGANIZATION (CLOUDSIGNAL_USERNAME)")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the password (or set CLOUDSIGNAL_PASSWORD)")
	flags.StringVar(&f.credentials, "credentials", "", "take user name and password from this bootstrap.json")
	flags.StringVar(&f.as, "as", "", "with --credentials: which user, or \"server\" for full access")
	flags.StringVar(&f.ca, "ca", "", "file of the authorities to trust, PEM (CLOUDSIGNAL_CA; default the system's)")
	flags.StringVarP(&f.clientID, "client-id", "i", "", "client identifier (default: the server assigns one; 3.1 needs one)")
	flags.StringVar(&f.protocol, "protocol", "5.0", "MQTT version: 5.0, 3.1.1 or 3.1")
	flags.Uint16Var(&f.keepAlive, "keep-alive", 60, "seconds, 0: none")
	flags.DurationVar(&f.timeout, "connect-timeout", 15*time.Second, "how long to wait for the connection")
}

var versions = map[string]mqtt.Version{"5.0": mqtt.V5, "5": mqtt.V5, "3.1.1": mqtt.V311, "4": mqtt.V311, "3.1": mqtt.V31, "3": mqtt.V31}

// dial connects as the flags, the environment and the credentials file say, in this order.
func (f *connectFlags) dial(ctx context.Context) (*client.Client, error) {
	version, ok := versions[f.protocol]
	if !ok {
		return nil, fmt.Errorf("--protocol %q: want 5.0, 3.1.1 or 3.1", f.protocol)
	}
	u, err := client.ParseURL(cmp.Or(f.url, os.Getenv("CLOUDSIGNAL_URL"), "mqtts://localhost:8883"))
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	trust, err := f.trust()
	if err != nil {
		return nil, err
	}
	username, password, err := f.identity()
	if err != nil {
		return nil, err
	}
	c := mqtt.Connect{
		Version: version, CleanStart: true, KeepAlive: f.keepAlive, ClientID: []byte(f.clientID),
		HasUsername: username != "", Username: []byte(username), HasPassword: password != "", Password: []byte(password),
	}
	if f.sessionExpiry != 0 {
		if f.clientID == "" || f.sessionExpiry < time.Second || f.sessionExpiry/time.Second >= 1<<32 {
			return nil, errors.New("--session-expiry: want at least 1s, and a --client-id to come back with")
		}
		c.CleanStart = false
		c.Properties.Set(mqtt.SessionExpiry)
		c.Properties.SessionExpiry = uint32(f.sessionExpiry / time.Second)
	}
	if version == mqtt.V31 && f.clientID == "" {
		return nil, errors.New("--client-id: MQTT 3.1 has no assigned client identifiers; give one")
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	conn, err := client.Dial(ctx, client.Options{Target: client.Target{URL: u, TLS: trust}, Connect: c, ByHand: f.sessionExpiry != 0})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("%w; for a development certificate give its authority with --ca DATA/tls/ca.pem", err)
	}
	return conn, err
}

func (f *connectFlags) trust() (*tls.Config, error) {
	file := cmp.Or(f.ca, os.Getenv("CLOUDSIGNAL_CA"))
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca: no certificate in %s", file)
	}
	return &tls.Config{RootCAs: pool}, nil
}

func (f *connectFlags) identity() (username, password string, err error) {
	if f.credentials != "" {
		return f.fromCredentials()
	}
	if f.as != "" {
		return "", "", errors.New("--as needs --credentials")
	}
	username, password = cmp.Or(f.username, os.Getenv("CLOUDSIGNAL_USERNAME")), os.Getenv("CLOUDSIGNAL_PASSWORD")
	if f.passwordFile != "" {
		b, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return "", "", fmt.Errorf("--password-file: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	return username, password, nil
}

// fromCredentials finds a user in the file that a server writes at its first start.
func (f *connectFlags) fromCredentials() (username, password string, err error) {
	b, err := os.ReadFile(f.credentials)
	if err != nil {
		return "", "", fmt.Errorf("--credentials: %w", err)
	}
	var file struct {
		Organization string `json:"organization"`
		Users        []struct {
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"users"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(b, &file); err != nil || file.Organization == "" {
		return "", "", fmt.Errorf("--credentials: %s is not a bootstrap.json", f.credentials)
	}
	if f.as == "server" {
		return "server@" + file.Organization, file.SecretKey, nil
	}
	names := []string{"server"}
	for _, u := range file.Users {
		name, _, _ := strings.Cut(u.Username, "@")
		if name == f.as || u.Username == f.as {
			return u.Username, u.Password, nil
		}
		names = append(names, name)
	}
	return "", "", fmt.Errorf("--as %q: want one of %s", f.as, strings.Join(names, ", "))
}
