package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	api, organization               string
	clientID, protocol              string
	keepAlive                       uint16
	timeout                         time.Duration
	sessionExpiry                   time.Duration // registered by who can go on with a session
}

func (f *connectFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "url", "", "address: mqtts://HOST:8883, wss://HOST:18885/ (CLOUDSIGNAL_URL; default mqtts://localhost:8883)")
	flags.StringVarP(&f.username, "username", "u", "", "user name, NAME@ORGANIZATION (CLOUDSIGNAL_USERNAME)")
	flags.StringVar(&f.passwordFile, "password-file", "", "file that holds the password (or set CLOUDSIGNAL_PASSWORD)")
	flags.StringVar(&f.credentials, "credentials", "", "take user name and password from this bootstrap.json (CLOUDSIGNAL_CREDENTIALS)")
	flags.StringVar(&f.as, "as", "", "with --credentials: which user, or \"server\" for full access")
	flags.StringVar(&f.organization, "organization", "", "whose key CLOUDSIGNAL_KEY is, org_... (CLOUDSIGNAL_ORGANIZATION; default: the API is asked)")
	flags.StringVar(&f.api, "api", "", "address of the API, which is asked whose key CLOUDSIGNAL_KEY is (CLOUDSIGNAL_API; default "+defaultAPI+")")
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
	trust, err := trust(f.ca)
	if err != nil {
		return nil, err
	}
	username, password, err := f.identity(ctx)
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
	return conn, trusted(err)
}

// trust is what certificates are checked against: the authorities of a file, nil for the system's.
func trust(ca string) (*tls.Config, error) {
	file := cmp.Or(ca, os.Getenv(envCA))
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

// trusted adds what to do about a certificate of an authority that is not known.
func trusted(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w; for a development certificate give its authority with --ca DATA/tls/ca.pem", err)
	}
	return err
}

// identity is the first of: --credentials or --as, --username, CLOUDSIGNAL_USERNAME, CLOUDSIGNAL_KEY (full access),
// CLOUDSIGNAL_CREDENTIALS. Nothing of it is anonymous.
func (f *connectFlags) identity(ctx context.Context) (username, password string, err error) {
	name, file := "--credentials", f.credentials
	if file == "" {
		name, file = envCredentials, os.Getenv(envCredentials)
	}
	if f.as != "" && file == "" {
		return "", "", errors.New("--as needs --credentials")
	}
	if f.credentials == "" && f.as == "" {
		username = cmp.Or(f.username, os.Getenv("CLOUDSIGNAL_USERNAME"))
		key, err := environmentKey()
		switch {
		case username != "":
			return f.withPassword(username)
		case err != nil:
			return "", "", err
		case key != "":
			return f.withKey(ctx, key)
		case file == "":
			return f.withPassword("")
		}
	}
	b, err := readBootstrap(name, file)
	if err != nil {
		return "", "", err
	}
	return b.login(f.as)
}

func (f *connectFlags) withPassword(username string) (string, string, error) {
	if f.passwordFile == "" {
		return username, os.Getenv("CLOUDSIGNAL_PASSWORD"), nil
	}
	password, err := readSecret("--password-file", f.passwordFile, nil)
	return username, password, err
}

// withKey logs in as server@ORGANIZATION; whose key it is, the API says if nobody else does.
func (f *connectFlags) withKey(ctx context.Context, key string) (username, password string, err error) {
	if kind, _, _ := strings.Cut(key, "_"); kind != "sk" && kind != "cs" {
		return "", "", fmt.Errorf("%s holds a key of kind %s: only a secret key (sk) logs in over MQTT; or give --username or --credentials", envKey, kind)
	}
	flags := apiFlags{api: f.api, ca: f.ca, organization: f.organization, timeout: f.timeout}
	organization := flags.organizationName()
	if organization == "" {
		a, err := flags.open(Streams{}, options{})
		if err != nil {
			return "", "", err
		}
		if organization, err = a.ownOrganization(ctx); err != nil {
			return "", "", fmt.Errorf("asking whose key %s holds (or give --organization): %w", envKey, err)
		}
	}
	return "server@" + organization, key, nil
}
