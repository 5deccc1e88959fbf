package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// organization is one as the API shows it.
type organization struct {
	ID        string           `json:"id"`
	UUID      string           `json:"uuid"`
	Name      string           `json:"name"`
	Disabled  bool             `json:"disabled"`
	CreatedAt string           `json:"created_at"`
	Limits    map[string]int64 `json:"limits"`
}

// limits are the names of the API in the order in which they are printed, and what they bound.
var limits = []struct{ name, flag, usage string }{
	{"max_connections", "max-connections", "connections at the same time"},
	{"max_message_bytes", "max-message-bytes", "bytes of a PUBLISH packet"},
	{"max_publish_rate", "max-publish-rate", "messages a second from one connection"},
	{"max_message_rate", "max-message-rate", "messages a second from all of the organization"},
	{"max_messages_per_month", "max-messages-per-month", "messages in a calendar month, UTC"},
	{"max_subscriptions", "max-subscriptions", "subscriptions of one connection"},
	{"max_sessions", "max-sessions", "sessions that outlive their connection"},
	{"max_retained", "max-retained", "retained messages"},
	{"max_storage_bytes", "max-storage-bytes", "bytes on disk for sessions and retained messages"},
}

func newOrg(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "org", Short: "Organizations, their limits and usage"},
		newOrgGet(s), newOrgList(s), newOrgCreate(s), newOrgRename(s), newOrgDisabled(s, "disable", true), newOrgDisabled(s, "enable", false),
		newOrgLimit(s), newOrgUsage(s), newOrgDelete(s))
}

func organizationFields(o *organization) []field {
	fields := []field{
		{name: "id", value: o.ID},
		{name: "uuid", value: o.UUID},
		{name: "name", value: o.Name},
		{name: "disabled", value: yes(o.Disabled)},
		{name: "created", value: moment(o.CreatedAt)},
	}
	return append(fields, limitFields(&o.Limits)...)
}

func limitFields(of *map[string]int64) []field {
	var fields []field
	for _, l := range limits {
		if n, ok := (*of)[l.name]; ok {
			fields = append(fields, field{name: l.name, value: limitText(n)})
		}
	}
	return fields
}

func limitText(n int64) string {
	if n == 0 {
		return "none"
	}
	return number(n)
}

func newOrgGet(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "get [ORGANIZATION]", Short: "Show an organization, without an argument one's own",
		Example: "  cloudsignal org get",
		Args:    cobra.MaximumNArgs(1),
	}
	return onAPI(c, s, options{onFirst: true, args: []source{ofOrganizations}}, func(ctx context.Context, a *api, args []string) error {
		path := "/v2/organization"
		if len(args) > 0 {
			id, err := given("ORGANIZATION", args[0])
			if err != nil {
				return err
			}
			path = route("v2", "organizations", id)
		}
		return show(ctx, a, http.MethodGet, path, nil, nil, organizationFields)
	})
}

func newOrgList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List organizations: of an operator all, else one's own",
		Example: "  cloudsignal org list --credentials data/bootstrap.json --ca data/tls/ca.pem",
		Args:    cobra.NoArgs,
	}
	return onAPI(c, s, options{operator: true, list: true}, func(ctx context.Context, a *api, _ []string) error {
		return list(ctx, a, "/v2/organizations", nil, []column[organization]{
			{"ID", func(o *organization) string { return o.ID }},
			{"NAME", func(o *organization) string { return o.Name }},
			{"DISABLED", func(o *organization) string { return yes(o.Disabled) }},
			{"CREATED", func(o *organization) string { return moment(o.CreatedAt) }},
		})
	})
}

func newOrgCreate(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "create NAME", Short: "Make an organization (operator)",
		Example: "  cloudsignal org create 'Pump works'",
		Args:    cobra.ExactArgs(1),
	}
	return onAPI(c, s, options{operator: true, words: words{"name": "NAME"}}, func(ctx context.Context, a *api, args []string) error {
		return show(ctx, a, http.MethodPost, "/v2/organizations", nil, map[string]any{"name": args[0]}, organizationFields)
	})
}

func newOrgRename(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "rename ORGANIZATION NAME", Short: "Change the name that people see",
		Example: "  cloudsignal org rename org_k7xm4pqr2n5t 'Pump works, north'",
		Args:    cobra.ExactArgs(2),
	}
	o := options{onFirst: true, words: words{"name": "NAME"}, args: []source{ofOrganizations}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		return patchOrganization(ctx, a, args[0], map[string]any{"name": args[1]})
	})
}

func newOrgDisabled(s Streams, verb string, disabled bool) *cobra.Command {
	short := "Let an organization connect again (operator)"
	if disabled {
		short = "End an organization's connections and let nobody connect to it, keeping what it has (operator)"
	}
	c := &cobra.Command{
		Use: verb + " ORGANIZATION", Short: short,
		Example: "  cloudsignal org " + verb + " org_f5g7h2j4k6m8",
		Args:    cobra.ExactArgs(1),
	}
	o := options{operator: true, onFirst: true, args: []source{ofOrganizations}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		return patchOrganization(ctx, a, args[0], map[string]any{"disabled": disabled})
	})
}

func patchOrganization(ctx context.Context, a *api, id string, change map[string]any) error {
	id, err := given("ORGANIZATION", id)
	if err != nil {
		return err
	}
	return show(ctx, a, http.MethodPatch, route("v2", "organizations", id), nil, change, organizationFields)
}

func newOrgLimit(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "limit [ORGANIZATION]", Short: "Show an organization's limits, or set some (operator)",
		Long: "Show an organization's limits, without an argument one's own. With flags, set those limits and leave the others\n" +
			"(operator). They are in force within a second.",
		Example: "  cloudsignal org limit org_k7xm4pqr2n5t --max-connections 1000 --max-messages-per-month 1000000",
		Args:    cobra.MaximumNArgs(1),
	}
	values := make([]int64, len(limits))
	called := make(words)
	for i, l := range limits {
		c.Flags().Int64Var(&values[i], l.flag, 0, l.usage+"; 0: no limit but the server's own")
		called[l.name] = "--" + l.flag
	}
	o := options{operator: true, onFirst: true, words: called, args: []source{ofOrganizations}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		change := make(map[string]int64)
		for i, l := range limits {
			if c.Flags().Changed(l.flag) {
				change[l.name] = values[i]
			}
		}
		if len(args) == 0 && len(change) > 0 {
			return errors.New("ORGANIZATION: whose limits? They can be changed only by that name")
		}
		id, err := organizationOf(ctx, a, args)
		if err != nil {
			return err
		}
		path := route("v2", "organizations", id, "limits")
		if len(change) == 0 {
			return show(ctx, a, http.MethodGet, path, nil, nil, limitFields)
		}
		return show(ctx, a, http.MethodPatch, path, nil, change, limitFields)
	})
}

// organizationOf is the organization of the first argument, else one's own.
func organizationOf(ctx context.Context, a *api, args []string) (string, error) {
	if len(args) > 0 {
		return given("ORGANIZATION", args[0])
	}
	return a.ownOrganization(ctx)
}

// usage is what an organization has used.
type usage struct {
	Month      string `json:"month"`
	Messages   int64  `json:"messages"`
	Deliveries int64  `json:"deliveries"`
	BytesIn    int64  `json:"bytes_in"`
	BytesOut   int64  `json:"bytes_out"`
	Refused    int64  `json:"refused"`
	Now        struct {
		Connections   int64 `json:"connections"`
		Sessions      int64 `json:"sessions"`
		Subscriptions int64 `json:"subscriptions"`
		Retained      int64 `json:"retained"`
		StorageBytes  int64 `json:"storage_bytes"`
	} `json:"now"`
	Limits map[string]int64 `json:"limits"`
}

func usageFields(u *usage) []field {
	of := func(n int64, limit string) string {
		if max := u.Limits[limit]; max > 0 {
			return number(n) + " of " + number(max)
		}
		return number(n)
	}
	return []field{
		{name: "month", value: u.Month},
		{name: "messages", value: of(u.Messages, "max_messages_per_month")},
		{name: "deliveries", value: number(u.Deliveries)},
		{name: "bytes in", value: number(u.BytesIn)},
		{name: "bytes out", value: number(u.BytesOut)},
		{name: "refused", value: number(u.Refused)},
		{name: "connections now", value: of(u.Now.Connections, "max_connections")},
		{name: "sessions now", value: of(u.Now.Sessions, "max_sessions")},
		{name: "subscriptions now", value: number(u.Now.Subscriptions)},
		{name: "retained now", value: of(u.Now.Retained, "max_retained")},
		{name: "storage bytes now", value: of(u.Now.StorageBytes, "max_storage_bytes")},
	}
}

func newOrgUsage(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "usage [ORGANIZATION]", Short: "Show what an organization has used in a month, and uses now",
		Example: "  cloudsignal org usage --month 2026-11",
		Args:    cobra.MaximumNArgs(1),
	}
	month := c.Flags().String("month", "", "YYYY-MM, UTC (default: this month)")
	o := options{onFirst: true, words: words{"month": "--month"}, args: []source{ofOrganizations}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		if len(args) > 0 {
			a.organization = args[0]
		}
		query := url.Values{}
		if *month != "" {
			query.Set("month", *month)
		}
		return show(ctx, a, http.MethodGet, "/v2/usage", query, nil, usageFields)
	})
}

func newOrgDelete(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "delete ORGANIZATION --yes", Short: "Delete an organization and everything in it, for good (operator)",
		Example: "  cloudsignal org delete org_d3w8c1v6b9n2 --yes",
		Args:    cobra.ExactArgs(1),
	}
	sure := c.Flags().Bool("yes", false, "yes, with its users, keys, rules, sessions and retained messages")
	o := options{operator: true, onFirst: true, args: []source{ofOrganizations}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		id, err := given("ORGANIZATION", args[0])
		if err != nil {
			return err
		}
		if !*sure {
			return errors.New("nothing can bring it back: give --yes to delete it")
		}
		return a.remove(ctx, route("v2", "organizations", id), nil)
	})
}
