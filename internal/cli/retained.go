package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// retained is a retained message as the API shows it.
type retained struct {
	Topic       string          `json:"topic"`
	Payload     json.RawMessage `json:"payload"`
	Encoding    string          `json:"encoding"`
	QoS         int64           `json:"qos"`
	PublishedAt string          `json:"published_at"`
	ExpiresIn   int64           `json:"expires_in"`
}

// payload is what was published: a string, decoded, or the JSON that it is.
func (r *retained) payload() ([]byte, error) {
	var s string
	if json.Unmarshal(r.Payload, &s) != nil {
		return r.Payload, nil
	}
	switch r.Encoding {
	case "":
		return []byte(s), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("the answer has a payload that is no base64: %w", err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("the answer has a payload in an encoding that this version does not know: %s", harmless(r.Encoding))
}

// shown is the payload's beginning in a table.
func (r *retained) shown() string {
	b, err := r.payload()
	if err != nil || r.Encoding != "" {
		return number(len(b)) + " bytes"
	}
	return short(string(b), 40)
}

func newRetained(s Streams) *cobra.Command {
	return group(&cobra.Command{Use: "retained", Short: "Retained messages"},
		newRetainedList(s), newRetainedGet(s), newRetainedDelete(s))
}

func newRetainedList(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list [FILTER]", Short: "List retained messages by topic filter",
		Long: "List retained messages whose topics match a topic filter, without one all. As in a subscription, # does not match\n" +
			"topics that begin with $.",
		Example: "  cloudsignal retained list 'agents/+/status'",
		Args:    cobra.MaximumNArgs(1),
	}
	return onAPI(c, s, options{list: true, words: words{"filter": "FILTER"}}, func(ctx context.Context, a *api, args []string) error {
		query := url.Values{}
		if len(args) > 0 {
			query.Set("filter", args[0])
		}
		return list(ctx, a, "/v2/retained", query, []column[retained]{
			{"TOPIC", func(r *retained) string { return r.Topic }},
			{"QOS", func(r *retained) string { return number(r.QoS) }},
			{"PUBLISHED", func(r *retained) string { return moment(r.PublishedAt) }},
			{"EXPIRES IN", func(r *retained) string {
				if r.ExpiresIn == 0 {
					return ""
				}
				return number(r.ExpiresIn) + " s"
			}},
			{"PAYLOAD", (*retained).shown},
		})
	})
}

func onRetained(c *cobra.Command, s Streams, run func(ctx context.Context, a *api, topic url.Values) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	return onAPI(c, s, options{words: words{"topic": "TOPIC"}}, func(ctx context.Context, a *api, args []string) error {
		topic, err := given("TOPIC", args[0])
		if err != nil {
			return err
		}
		return run(ctx, a, url.Values{"topic": {topic}})
	})
}

func newRetainedGet(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "get TOPIC", Short: "Print the payload of a retained message as it is; with -o json all of it",
		Example: "  cloudsignal retained get agents/agent-01/status",
	}
	return onRetained(c, s, func(ctx context.Context, a *api, topic url.Values) error {
		text, err := a.do(ctx, http.MethodGet, "/v2/retained/message", topic, nil)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(text)
		}
		r, err := decode[retained](text)
		if err != nil {
			return err
		}
		payload, err := r.payload()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Out, "%s\n", payload)
		return err
	})
}

func newRetainedDelete(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "delete TOPIC", Short: "Delete a retained message",
		Example: "  cloudsignal retained delete agents/agent-01/old",
	}
	return onRetained(c, s, func(ctx context.Context, a *api, topic url.Values) error {
		return a.remove(ctx, "/v2/retained/message", topic)
	})
}
