package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Off is the address of a listener that is not wanted.
const Off = "off"

// Config is what a server can be told. Listeners are named as in the file, the flags and the environment.
type Config struct {
	Data string   `yaml:"data"` // directory of everything that is kept; made if missing
	Host hostList `yaml:"host"` // further names and addresses of the development certificate
	Cert string   `yaml:"cert"` // PEM files of a certificate (with its chain) and its key; both or none
	Key  string   `yaml:"key"`

	MQTTS   string `yaml:"mqtts"` // address (host:port, port 0 takes a free one) or "off"
	WSS     string `yaml:"wss"`
	HTTPS   string `yaml:"https"`
	MQTT    string `yaml:"mqtt"` // unencrypted
	WS      string `yaml:"ws"`   // unencrypted
	Metrics string `yaml:"metrics"`

	SessionExpiry    string `yaml:"session-expiry"` // durations, such as 90s or 1h30m
	MaxSessionExpiry string `yaml:"max-session-expiry"`
	WillGrace        string `yaml:"will-grace"`
	DiskReserve      string `yaml:"disk-reserve"` // bytes, such as 256M

	SignUp     string `yaml:"sign-up"`     // open or closed
	TokenFloor string `yaml:"token-floor"` // a duration
	LogLevel   string `yaml:"log-level"`   // info or debug
}

// DefaultConfig is a server on loopback.
func DefaultConfig() Config {
	return Config{
		Data:    "data",
		MQTTS:   "127.0.0.1:8883",
		WSS:     "127.0.0.1:18885",
		HTTPS:   "127.0.0.1:8443",
		MQTT:    Off,
		WS:      Off,
		Metrics: "127.0.0.1:9464",

		SessionExpiry:    "1h",
		MaxSessionExpiry: "168h",
		WillGrace:        "30s",
		DiskReserve:      "256M",

		SignUp:     signUpClosed,
		TokenFloor: "60s",
		LogLevel:   logInfo,
	}
}

// setting is one value of Config under its one name.
type setting struct {
	name  string
	usage string
	value func(*Config) *string // nil for host
	check func(name, value string) error
}

var settings = []setting{
	{"data", "directory of everything that is kept", func(c *Config) *string { return &c.Data }, nil},
	{"host", "further names and addresses of the development certificate, with commas between", nil, nil},
	{"cert", "certificate file, PEM, with its chain (default: a development certificate)", func(c *Config) *string { return &c.Cert }, nil},
	{"key", "key file of the certificate, PEM", func(c *Config) *string { return &c.Key }, nil},
	{"mqtts", "address of MQTT over TLS, or off", func(c *Config) *string { return &c.MQTTS }, checkAddress},
	{"wss", "address of MQTT over secure WebSocket, or off", func(c *Config) *string { return &c.WSS }, checkAddress},
	{"https", "address of HTTPS (API, health, /try), or off", func(c *Config) *string { return &c.HTTPS }, checkAddress},
	{"mqtt", "address of unencrypted MQTT, or off", func(c *Config) *string { return &c.MQTT }, checkAddress},
	{"ws", "address of unencrypted WebSocket, or off", func(c *Config) *string { return &c.WS }, checkAddress},
	{"metrics", "loopback address of Prometheus metrics, or off", func(c *Config) *string { return &c.Metrics }, checkMetrics},
	{
		"session-expiry", "how long the session of a 5.0 client is kept that asks for clean start 0 and names no expiry",
		func(c *Config) *string { return &c.SessionExpiry }, checkSeconds,
	},
	{
		"max-session-expiry", "how long a session is kept without its client at most; those of 3.x clients are kept that long",
		func(c *Config) *string { return &c.MaxSessionExpiry }, checkSeconds,
	},
	{
		"will-grace", "how long wills of connections that a crash or a stop has ended wait behind the next start at least",
		func(c *Config) *string { return &c.WillGrace }, checkDuration,
	},
	{
		"disk-reserve", "free bytes (256M, 2G) below which nothing is taken that would grow the store",
		func(c *Config) *string { return &c.DiskReserve }, checkBytes,
	},
	{
		"sign-up", "open: anybody who reaches the API may sign up with an organization of their own; or closed",
		func(c *Config) *string { return &c.SignUp }, checkSignUp,
	},
	{
		"token-floor", "how long a temporary token is valid at least",
		func(c *Config) *string { return &c.TokenFloor }, checkFloor,
	},
	{
		"log-level", "info, or debug: also every change that the API made or refused",
		func(c *Config) *string { return &c.LogLevel }, checkLogLevel,
	},
}

// Values of the setting log-level.
const (
	logInfo  = "info"
	logDebug = "debug"
)

func checkLogLevel(name, value string) error {
	if value != logInfo && value != logDebug {
		return fmt.Errorf("setting %s: %q; give %s or %s", name, value, logInfo, logDebug)
	}
	return nil
}

// logLevel is the least level of what is logged.
func (c *Config) logLevel() slog.Level {
	if c.LogLevel == logDebug {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Values of the setting sign-up.
const (
	signUpOpen   = "open"
	signUpClosed = "closed"
)

func checkSignUp(name, value string) error {
	if value != signUpOpen && value != signUpClosed {
		return fmt.Errorf("setting %s: %q; give %s or %s", name, value, signUpOpen, signUpClosed)
	}
	return nil
}

// maxTokenFloor is the longest time that a token may be valid, and so the highest floor.
const maxTokenFloor = 24 * time.Hour

func checkFloor(name, value string) error {
	if err := checkSeconds(name, value); err != nil {
		return err
	}
	if d := duration(value); d < time.Second || d > maxTokenFloor {
		return fmt.Errorf("setting %s: %q; give 1s to %s", name, value, maxTokenFloor)
	}
	return nil
}

// maxSeconds is what a session expiry can say.
const maxSeconds = 1<<32 - 2

func checkDuration(name, value string) error {
	if d, err := time.ParseDuration(value); err != nil || d < 0 {
		return fmt.Errorf("setting %s: %q is not a duration; give one such as 30s, 1h or 168h", name, value)
	}
	return nil
}

func checkSeconds(name, value string) error {
	if err := checkDuration(name, value); err != nil {
		return err
	}
	if d := duration(value); d%time.Second != 0 || d/time.Second > maxSeconds {
		return fmt.Errorf("setting %s: %q is not a whole number of seconds up to %d", name, value, uint32(maxSeconds))
	}
	return nil
}

// duration is the value of a setting that was checked.
func duration(value string) time.Duration {
	d, _ := time.ParseDuration(value)
	return d
}

func seconds(value string) uint32 { return uint32(duration(value) / time.Second) }

func checkBytes(name, value string) error {
	if _, ok := parseBytes(value); !ok {
		return fmt.Errorf("setting %s: %q is not a number of bytes; give one such as 256M or 2G", name, value)
	}
	return nil
}

func parseBytes(value string) (n int64, ok bool) {
	digits := strings.TrimRight(value, "KMGT")
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	unit, known := shift[value[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 0 || n > 1<<62>>unit {
		return 0, false
	}
	return n << unit, true
}

func checkAddress(name, address string) error {
	if address == Off {
		return nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("setting %s: %q is not an address; give HOST:PORT or off", name, address)
	}
	return nil
}

func checkMetrics(name, address string) error {
	if err := checkAddress(name, address); err != nil || address == Off {
		return err
	}
	if host, _, _ := net.SplitHostPort(address); !loopback(host) {
		return fmt.Errorf("setting metrics: %q can be reached from outside; give a loopback address such as 127.0.0.1:9464, or off", address)
	}
	return nil
}

// envName is the environment variable of a setting.
func envName(setting string) string {
	return "CLOUDSIGNAL_" + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

func (c *Config) set(name, value string) {
	if name == "host" {
		c.Host = splitHosts(value)
		return
	}
	for _, s := range settings {
		if s.name == name {
			*s.value(c) = value
		}
	}
}

// hostList is a list, or in the file also one line with commas as in the flag.
type hostList []string

// UnmarshalYAML takes both forms.
func (h *hostList) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*h = splitHosts(n.Value)
		return nil
	}
	return n.Decode((*[]string)(h))
}

func splitHosts(s string) (hosts []string) {
	for h := range strings.SplitSeq(s, ",") {
		if h = strings.TrimSpace(h); h != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// readFile lays a YAML file over c. A key that is not a setting is an error: a mistyped one must not start a server that
// is open where it was meant to be closed.
func (c *Config) readFile(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("setting config: %w", err)
	}
	if err := noNulls(b); err != nil {
		return fmt.Errorf("setting config: %s: %w", file, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("setting config: %s: %s", file, yamlError(err))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("setting config: %s: holds more than one document", file)
	}
	return nil
}

// noNulls refuses keys without a value: they would leave the default in force, which may be a listener.
func noNulls(b []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil || len(doc.Content) == 0 {
		return nil // the decoder says what is wrong
	}
	root := doc.Content[0]
	for i := 1; root.Kind == yaml.MappingNode && i < len(root.Content); i += 2 {
		if v := root.Content[i]; v.Tag == "!!null" {
			return fmt.Errorf("line %d: %s has no value; give one or leave the key out", v.Line, root.Content[i-1].Value)
		}
	}
	return nil
}

// yamlError is a YAML error as one line, in the words of settings.
func yamlError(err error) string {
	if t, ok := errors.AsType[*yaml.TypeError](err); ok {
		s := strings.Join(t.Errors, "; ")
		s = strings.ReplaceAll(s, " not found in type server.Config", " is not a setting")
		return strings.ReplaceAll(s, "field ", "")
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// check refuses what cannot be meant.
func (c *Config) check() error {
	if c.Data == "" {
		return errors.New("setting data: names no directory")
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("settings cert and key: give both or none")
	}
	if c.Cert != "" && len(c.Host) > 0 {
		return errors.New("setting host: is for the development certificate and has no effect with cert and key")
	}
	for _, s := range settings {
		if s.check == nil {
			continue
		}
		if err := s.check(s.name, *s.value(c)); err != nil {
			return err
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
