package cli

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A shell waits while it completes, so not for long.
const completionTime = 2 * time.Second

// source knows what an argument or a flag may be: values, or what the API is asked for; before are the arguments before.
type source struct {
	values []string
	ask    func(ctx context.Context, a *api, before []string) []string
}

// Sources of completion.
var (
	ofUsers         = named("name", "v2", "users")
	ofRuleSets      = named("name", "v2", "rule-sets")
	ofKeys          = named("id", "v2", "keys")
	ofTokens        = named("token_id", "v2", "tokens")
	ofSessions      = named("client_id", "v2", "sessions")
	ofOrganizations = named("id", "v2", "organizations")
	ofRules         = source{ask: rulesOf}
)

// oneOf is a source that needs no API.
func oneOf(values ...string) source { return source{values: values} }

// named takes one field of the first page of a list.
func named(field string, path ...string) source {
	return source{ask: func(ctx context.Context, a *api, _ []string) []string {
		p, err := a.page(ctx, route(path...), url.Values{"limit": {strconv.Itoa(maxPage)}})
		if err != nil {
			return nil // the shell has no place for it
		}
		var names []string
		for _, text := range p.Data {
			var item map[string]json.RawMessage
			var name string
			if json.Unmarshal(text, &item) == nil && json.Unmarshal(item[field], &name) == nil {
				names = append(names, name)
			}
		}
		return names
	}}
}

// rulesOf are the rules of the set before.
func rulesOf(ctx context.Context, a *api, before []string) []string {
	set, err := a.ruleSet(ctx, before[0])
	if err != nil {
		return nil
	}
	var ids []string
	for _, r := range set.Rules {
		ids = append(ids, r.ID)
	}
	return ids
}

// plain are words that mean nothing to any shell: client identifiers and topics are chosen by strangers.
var plain = regexp.MustCompile(`^[A-Za-z0-9_.:/@%+-]+$`)

func fitting(values []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(s string) bool { return !plain.MatchString(s) || !strings.HasPrefix(s, prefix) })
}

// complete lets the shell complete arguments, and the flags that every command has.
func (f *apiFlags) complete(c *cobra.Command, s Streams, o options) {
	if len(o.args) > 0 {
		c.ValidArgsFunction = func(c *cobra.Command, before []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(before) >= len(o.args) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return f.find(c, s, o, o.args[len(before)], before, prefix), cobra.ShellCompDirectiveNoFileComp
		}
	} else {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	outputs := []string{"text", "json"}
	if o.secret != "" {
		outputs = append(outputs, "secret")
	}
	f.completeFlag(c, s, o, "output", oneOf(outputs...))
	for flag, from := range map[string]source{
		"organization": ofOrganizations, "rule-set": ofRuleSets, "user": ofUsers,
		"permission": oneOf("publish", "subscribe", "pubsub"), "effect": oneOf("allow", "deny"),
		"kind": oneOf("secret", "publishable", "restricted"), "scope": oneOf(scopes...),
	} {
		f.completeFlag(c, s, o, flag, from)
	}
}

func (f *apiFlags) completeFlag(c *cobra.Command, s Streams, o options, flag string, from source) {
	if c.Flags().Lookup(flag) == nil {
		return
	}
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, before []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return f.find(c, s, o, from, before, prefix), cobra.ShellCompDirectiveNoFileComp
	})
}

func (f *apiFlags) find(c *cobra.Command, s Streams, o options, from source, before []string, prefix string) []string {
	if from.ask == nil {
		return fitting(from.values, prefix)
	}
	quick := *f
	quick.timeout = completionTime
	a, err := quick.open(s, o, before...)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionTime)
	defer cancel()
	return fitting(from.ask(ctx, a, before), prefix)
}
