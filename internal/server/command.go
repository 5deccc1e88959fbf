package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Command is `serve`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: "Run the server until SIGINT, SIGTERM or SIGHUP (its terminal is closed).\n\n" +
			"Every setting is a flag, an environment variable (--mqtts is " + envName("mqtts") + ") and a key of the YAML file of\n" +
			"--config; a flag counts before the environment, that before the file.",
		Example: "  cloudsignal serve --data /var/lib/cloudsignal --mqtts :8883 --wss :18885 --https :443 \\\n" +
			"    --cert /etc/cloudsignal/cert.pem --key /etc/cloudsignal/key.pem",
		Args: cobra.NoArgs,
		RunE: serve,
	}
	defaults := DefaultConfig()
	for _, s := range settings {
		value := ""
		if s.value != nil {
			value = *s.value(&defaults)
		}
		c.Flags().String(s.name, value, s.usage)
	}
	c.Flags().String("config", "", "YAML file with any of these settings")
	c.Flags().StringP("output", "o", "text", "what to print when ready: text, json (one line), or guide (with credentials, ready to paste)")
	return c
}

// configOf puts the settings together: defaults, file, environment, flags.
func configOf(c *cobra.Command, getenv func(string) (string, bool)) (Config, error) {
	cfg := DefaultConfig()
	file, _ := c.Flags().GetString("config")
	if file == "" {
		file, _ = getenv(envName("config"))
	}
	if file != "" {
		if err := cfg.readFile(file); err != nil {
			return cfg, err
		}
	}
	for _, s := range settings {
		if v, ok := getenv(envName(s.name)); ok && !forClients(s.name, v) {
			cfg.set(s.name, v)
		}
		if f := c.Flags().Lookup(s.name); f.Changed {
			cfg.set(s.name, f.Value.String())
		}
	}
	return cfg, cfg.check()
}

// clientVariables are read by the other commands, and may be there when the server starts.
var clientVariables = []string{"URL", "USERNAME", "PASSWORD", "CA", "CONFIG", "API", "CREDENTIALS", "ORGANIZATION"}

// secretForm is what keys and the tokens of members look like.
var secretForm = regexp.MustCompile(`^(sk|pk|rk|cs|op|ses)_[A-Za-z0-9]{20,}$`)

// forClients tells of the one variable that has two meanings: CLOUDSIGNAL_KEY is the key file of the certificate here, and the
// API key of the other commands. A secret is not a file's name, and is not to stand in an error as one.
func forClients(name, value string) bool { return name == "key" && secretForm.MatchString(value) }

// unknownVariables are the names in an environment that look like settings and are none. They may be another program's:
// unlike an unknown key of the file they do not refuse the start.
func unknownVariables(environment []string) (names []string) {
	for _, v := range environment {
		name, _, _ := strings.Cut(v, "=")
		rest, ours := strings.CutPrefix(name, "CLOUDSIGNAL_")
		known := slices.Contains(clientVariables, rest) ||
			slices.ContainsFunc(settings, func(s setting) bool { return envName(s.name) == name })
		if ours && !known {
			names = append(names, name)
		}
	}
	return names
}

func serve(c *cobra.Command, _ []string) error {
	output, _ := c.Flags().GetString("output")
	if !slices.Contains([]string{"text", "json", "guide"}, output) {
		return fmt.Errorf("--output %q: want text, json or guide", output)
	}
	cfg, err := configOf(c, os.LookupEnv)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	log := slog.New(slog.NewJSONHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: cfg.logLevel()}))
	for _, name := range unknownVariables(os.Environ()) {
		log.Warn("environment variable is not a setting", "name", name)
	}
	s, err := Run(ctx, cfg, log)
	if err != nil {
		return oneLine(err)
	}
	log.Info("ready", "addresses", s.Addresses())
	if err := s.announce(c.OutOrStdout(), output); err != nil {
		return errors.Join(err, s.Close())
	}
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case <-s.Failed(): // what is on disk is not known any more: the next start finds out. Nothing is tried again
		log.Error("the store has failed; stopping")
	}
	stop() // a second signal ends the process at once
	err = s.Close()
	log.Info("stopped")
	return err
}

// announce says on standard output that the server is ready.
func (s *Server) announce(out io.Writer, output string) error {
	switch output {
	case "json":
		return json.NewEncoder(out).Encode(struct {
			Event       string            `json:"event"`
			Addresses   map[string]string `json:"addresses"`
			CA          string            `json:"ca,omitempty"`
			Credentials string            `json:"credentials,omitempty"`
		}{"ready", s.addresses, s.ca, s.Credentials()})
	case "guide":
		return s.guide(out)
	}
	var b strings.Builder
	b.WriteString("cloudsignal is ready\n")
	for _, setting := range settings[4:] {
		if a, ok := s.addresses[setting.name]; ok {
			fmt.Fprintf(&b, "  %-8s %s\n", setting.name, a)
		}
	}
	if s.ca != "" {
		fmt.Fprintf(&b, "  %-8s %s\n", "ca", s.ca)
	}
	if file := s.Credentials(); file != "" {
		fmt.Fprintf(&b, "  first credentials are in %s\n", file)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// oneLine makes one line of an error and what went wrong when it was cleaned up after.
func oneLine(err error) error {
	if s := err.Error(); strings.Contains(s, "\n") {
		return errors.New(strings.ReplaceAll(s, "\n", "; "))
	}
	return err
}
