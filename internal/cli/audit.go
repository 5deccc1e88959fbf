package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// auditEntry is one change, or one log-in, as the API shows it; before and after are in its JSON.
type auditEntry struct {
	ID      string `json:"id"`
	At      string `json:"at"`
	Address string `json:"address"`
	Action  string `json:"action"`
	Target  string `json:"target"`
	Actor   struct {
		Kind string `json:"kind"`
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"actor"`
}

func newAudit(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "audit", Short: "Who changed what"}, newAuditList(s))
}

func newAuditList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List changes and people's log-ins, the newest first; with -o json what was before and after",
		Example: "  cloudsignal audit list --from 24h --action user.create -n 50",
		Args:    cobra.NoArgs,
	}
	flags := c.Flags()
	equal := map[string]*string{
		"actor":  flags.String("actor", "", "only what this one did: an id, a name or a kind (key, member, operator, token, system)"),
		"action": flags.String("action", "", "only this, such as key.revoke; key. is all about keys"),
		"target": flags.String("target", "", "only what was done to this"),
	}
	from := flags.String("from", "", "only since then: 24h ago, 2026-11-03 or 2026-11-03T09:30:00Z")
	until := flags.String("until", "", "only before then, in the same forms")
	called := words{"actor": "--actor", "action": "--action", "target": "--target", "from": "--from", "until": "--until"}
	return onAPI(c, s, options{list: true, words: called}, func(ctx context.Context, a *api, _ []string) error {
		query := url.Values{}
		for name, value := range equal {
			if *value != "" {
				query.Set(name, *value)
			}
		}
		now := time.Now()
		for name, value := range map[string]string{"from": *from, "until": *until} {
			if value == "" {
				continue
			}
			t, err := parseMoment(value, now)
			if err != nil {
				return fmt.Errorf("--%s %w", name, err)
			}
			query.Set(name, t.UTC().Format("2006-01-02T15:04:05.000Z"))
		}
		return list(ctx, a, "/v2/audit", query, []column[auditEntry]{
			{"TIME", func(e *auditEntry) string { return moment(e.At) }},
			{"ACTION", func(e *auditEntry) string { return e.Action }},
			{"TARGET", func(e *auditEntry) string { return e.Target }},
			{"ACTOR", func(e *auditEntry) string { return cmp.Or(e.Actor.Name, e.Actor.ID, e.Actor.Kind) }},
			{"ADDRESS", func(e *auditEntry) string { return e.Address }},
		})
	})
}

// parseMoment reads how long ago, a day (UTC) or a time.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: want how long ago (24h), a day (2026-11-03) or a time (2026-11-03T09:30:00Z)", s)
}
