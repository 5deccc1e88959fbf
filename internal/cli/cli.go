// Package cli is the command line: one file per command. It speaks MQTT like any client and never imports the server;
// what serves is handed in as one more command.
package cli

import (
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
			"-o json. The exit code is 1 after an error.",
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

func newVersion(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  cloudsignal version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, Version())
			return err
		},
	}
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
