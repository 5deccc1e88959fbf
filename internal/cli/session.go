package cli

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// mqttSession is a session as the API shows it.
type mqttSession struct {
	ClientID       string `json:"client_id"`
	User           string `json:"user"`
	Connected      bool   `json:"connected"`
	Address        string `json:"address"`
	Protocol       string `json:"protocol"`
	Transport      string `json:"transport"`
	ConnectedAt    string `json:"connected_at"`
	DisconnectedAt string `json:"disconnected_at"`
	ExpiresAt      string `json:"expires_at"`
	KeepAlive      int64  `json:"keep_alive"`
	Queued         int64  `json:"queued"`
	QueuedBytes    int64  `json:"queued_bytes"`
	InFlight       int64  `json:"in_flight"`
	TokenExpiresAt string `json:"token_expires_at"`
	Subscriptions  []struct {
		Filter string `json:"filter"`
		QoS    int64  `json:"qos"`
	} `json:"subscriptions"`
}

func sessionFields(m *mqttSession) []field {
	fields := []field{
		{name: "client id", value: m.ClientID},
		{name: "user", value: m.User},
		{name: "connected", value: yes(m.Connected)},
		{name: "address", value: m.Address},
		{name: "protocol", value: m.Protocol},
		{name: "transport", value: m.Transport},
		{name: "connected at", value: moment(m.ConnectedAt)},
		{name: "disconnected at", value: moment(m.DisconnectedAt)},
		{name: "expires", value: moment(m.ExpiresAt)},
		{name: "token expires", value: moment(m.TokenExpiresAt)},
		{name: "keep alive", value: number(m.KeepAlive)},
		{name: "queued", value: number(m.Queued)},
		{name: "queued bytes", value: number(m.QueuedBytes)},
		{name: "in flight", value: number(m.InFlight)},
	}
	for _, s := range m.Subscriptions {
		fields = append(fields, field{name: "subscribed at QoS " + number(s.QoS), value: s.Filter})
	}
	return fields
}

func newSession(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "session", Short: "Connections and the sessions that outlive them"},
		newSessionList(s), newSessionGet(s), newSessionDisconnect(s), newSessionDelete(s))
}

func newSessionList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List sessions",
		Example: "  cloudsignal session list --connected",
		Args:    cobra.NoArgs,
	}
	user := c.Flags().String("user", "", "only of this user")
	on := c.Flags().Bool("connected", false, "only those with a connection")
	off := c.Flags().Bool("offline", false, "only those without")
	return onAPI(c, s, options{list: true, words: words{"user": "--user"}}, func(ctx context.Context, a *api, _ []string) error {
		query := url.Values{}
		switch {
		case *on && *off:
			return errors.New("give --connected or --offline, not both")
		case *on:
			query.Set("connected", "true")
		case *off:
			query.Set("connected", "false")
		}
		if *user != "" {
			name, err := a.userName(ctx, *user)
			if err != nil {
				return err
			}
			query.Set("user", name)
		}
		return list(ctx, a, "/v2/sessions", query, []column[mqttSession]{
			{"CLIENT ID", func(m *mqttSession) string { return m.ClientID }},
			{"USER", func(m *mqttSession) string { return m.User }},
			{"CONNECTED", func(m *mqttSession) string { return yes(m.Connected) }},
			{"ADDRESS", func(m *mqttSession) string { return m.Address }},
			{"PROTOCOL", func(m *mqttSession) string { return m.Protocol }},
			{"QUEUED", func(m *mqttSession) string { return number(m.Queued) }},
			{"EXPIRES", func(m *mqttSession) string { return moment(m.ExpiresAt) }},
		})
	})
}

func onSession(c *cobra.Command, s Streams, run func(ctx context.Context, a *api, id string) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	o := options{args: []source{ofSessions}, words: words{"client_id": "CLIENT_ID"}}
	return onAPI(c, s, o, func(ctx context.Context, a *api, args []string) error {
		id, err := given("CLIENT_ID", args[0])
		if err != nil {
			return err
		}
		return run(ctx, a, id)
	})
}

// sessionNamed names a session in the query: there is no path for every client identifier.
func sessionNamed(id string) url.Values { return url.Values{"client_id": {id}} }

func newSessionGet(s Streams) *cobra.Command {
	c := &cobra.Command{Use: "get CLIENT_ID", Short: "Show a session with its subscriptions", Example: "  cloudsignal session get desk"}
	return onSession(c, s, func(ctx context.Context, a *api, id string) error {
		return show(ctx, a, http.MethodGet, "/v2/session", sessionNamed(id), nil, sessionFields)
	})
}

func newSessionDisconnect(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "disconnect CLIENT_ID", Short: "End a client's connection; its session stays, and it may connect again",
		Example: "  cloudsignal session disconnect board",
	}
	type disconnected struct {
		ClientID     string `json:"client_id"`
		Disconnected bool   `json:"disconnected"`
	}
	return onSession(c, s, func(ctx context.Context, a *api, id string) error {
		return show(ctx, a, http.MethodPost, "/v2/session/disconnect", sessionNamed(id), nil, func(d *disconnected) []field {
			return []field{{name: "client id", value: d.ClientID}, {name: "disconnected", value: yes(d.Disconnected)}}
		})
	})
}

func newSessionDelete(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "delete CLIENT_ID", Short: "End a session with all that waits in it, and its connection",
		Example: "  cloudsignal session delete old-desk",
	}
	return onSession(c, s, func(ctx context.Context, a *api, id string) error {
		return a.remove(ctx, "/v2/session", sessionNamed(id))
	})
}
