// Package cli is the command line: one file per command. It speaks MQTT like any client and never imports the server;
// what serves is handed in as one more command.
package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ErrReported is an error about which the user has been told already: only the exit code is left.
var ErrReported = errors.New("reported")

// New makes the command line; extra are commands of other packages.
func New(s Streams, extra ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "cloudsignal",
		Short: "A multi-tenant MQTT broker, and the client that speaks to it",
		Long: "A multi-tenant MQTT broker, and the client that speaks to it.\n\n" +
			"pub and sub speak MQTT; what manages an organization speaks to the API. Its key comes from " + envKey + ", or from\n" +
			"the file of a server's first start that --credentials or " + envCredentials + " names. Every command takes\n" +
			"-o json, and then shows an error as one object. The exit code is 1 after an error.",
		Version:       Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.AddCommand(newPub(s), newSub(s), newVersion(s), newSignUp(s), newLogIn(s), newLogOut(s), newWhoAmI(s),
		newOrg(s), newUser(s), newToken(s), newKey(s), newACL(s), newSession(s), newRetained(s), newAudit(s))
	root.AddCommand(extra...)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help lists the flags)", err, c.CommandPath())
	})
	return root
}

// Run runs the command line with arguments, reports its error, and gives the exit code.
func Run(ctx context.Context, s Streams, args []string, extra ...*cobra.Command) int {
	root := New(s, extra...)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	switch {
	case errors.Is(err, ErrReported):
	case wantsJSON(c, args):
		reportJSON(s.Err, err)
	default:
		fmt.Fprintln(s.Err, "cloudsignal:", err) //nolint:errcheck // there is nowhere else to say it
	}
	return 1
}

// wantsJSON says whether a command was called with -o json, also if its flags could not be read.
func wantsJSON(c *cobra.Command, args []string) bool {
	if f := c.Flags().Lookup("output"); f != nil && f.Changed {
		return f.Value.String() == "json"
	}
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			return i+1 < len(args) && args[i+1] == "json"
		}
	}
	return false
}

// failure is an error as -o json shows it. Code is the API's, or command_line for what did not come that far.
type failure struct {
	Error     string         `json:"error"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id,omitempty"`
	Errors    []problemError `json:"errors,omitempty"`
}

func reportJSON(w io.Writer, err error) {
	f := failure{Error: err.Error(), Code: "command_line"}
	if p, ok := errors.AsType[*problem](err); ok {
		f.Code, f.RequestID, f.Errors = cmp.Or(p.Code, "unknown"), p.RequestID, p.Errors
	}
	text, err := json.Marshal(f)
	if err == nil {
		text, err = oneLine(text)
	}
	if err == nil {
		_, _ = w.Write(append(text, '\n')) // there is nowhere else to say it
	}
}

func newVersion(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  cloudsignal version",
		Args:    cobra.NoArgs,
	}
	output := c.Flags().StringP("output", "o", "text", "text or json")
	c.RunE = func(*cobra.Command, []string) (err error) {
		switch *output {
		case "json":
			err = json.NewEncoder(s.Out).Encode(map[string]string{"version": Version()})
		case "text":
			_, err = fmt.Fprintln(s.Out, Version())
		default:
			err = fmt.Errorf("--output %q: want text or json", *output)
		}
		return err
	}
	return c
}

// Version is the build's version: its tag, or the commit it was made of.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "cloudsignal (unknown build)"
	}
	version := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = setting.Value
		}
	}
	return fmt.Sprintf("cloudsignal %s %s", version, info.GoVersion)
}
