package script

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"cloudsignal/internal/cli"
	"cloudsignal/internal/server"
)

// examplesCommand: examples [NAME=VALUE...] runs the example in the help of every command that there is, in the order of their
// names, each as a shell script. VALUE takes the place of NAME, an identifier that only the example has. The ports and the
// certificate of serve's example are another machine's: of it only the flags are read.
func examplesCommand(ts *testscript.TestScript, neg bool, args []string) {
	var pairs []string
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || value == "" {
			ts.Fatalf("examples: %q: want NAME=VALUE", arg)
		}
		pairs = append(pairs, name, value)
	}
	real := strings.NewReplacer(pairs...)
	ran := 0
	var run func(c *cobra.Command)
	run = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			run(sub)
		}
		if c.HasSubCommands() {
			return
		}
		text := real.Replace(c.Example)
		if !strings.Contains(text, c.CommandPath()) {
			ts.Fatalf("%s has no example of itself", c.CommandPath())
		}
		if c.Name() == "serve" {
			text += " --help"
		}
		ts.Logf("%s:\n%s", c.CommandPath(), text)
		if err := ts.Exec("sh", "-eu", "-c", text); err != nil {
			ts.Fatalf("the example of %s: %v", c.CommandPath(), err)
		}
		ran++
	}
	run(cli.New(cli.Streams{}, server.Command()))
	ts.Logf("%d examples ran", ran)
}

// fieldCommand: field VARIABLE FILE KEY... sets a variable to a string in a JSON file.
func fieldCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("field VARIABLE FILE KEY...")
	}
	text, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	for _, key := range args[2:] {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(text, &object); err != nil || object[key] == nil {
			ts.Fatalf("%s has no %s", args[1], strings.Join(args[2:], "."))
		}
		text = object[key]
	}
	var value string
	ts.Check(json.Unmarshal(text, &value))
	ts.Setenv(args[0], value)
}
