package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cloudsignal/internal/client"
	"cloudsignal/internal/mqtt"
)

type subFlags struct {
	connect     connectFlags
	filters     []string
	qos         uint8
	count       int
	wait        time.Duration
	verbose     bool
	output      string
	noLocal     bool
	asPublished bool
	noRetained  bool
}

func newSub(s Streams) *cobra.Command {
	f := &subFlags{}
	c := &cobra.Command{
		Use:   "sub -t FILTER...",
		Short: "Subscribe and print messages",
		Long: "Subscribe and print messages until interrupted, --count is reached or --wait is over.\n" +
			"Each payload is printed as it is, one per line; with -o json one object per message, a payload that is not\n" +
			"UTF-8 in base64 with \"encoding\".",
		Example: "  cloudsignal sub --credentials data/bootstrap.json --as dashboard --ca data/tls/ca.pem -t 'agents/#' -v -n 1\n" +
			"  cloudsignal sub --credentials data/bootstrap.json --as dashboard --ca data/tls/ca.pem -t 'agents/#' -q 1 -i desk --session-expiry 1h -n 1",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), s) },
	}
	flags := c.Flags()
	f.connect.register(flags)
	flags.StringArrayVarP(&f.filters, "topic", "t", nil, "topic filter, any number; $share/GROUP/FILTER shares the messages among the group")
	flags.Uint8VarP(&f.qos, "qos", "q", 0, "0, 1 or 2: the highest wanted")
	flags.IntVarP(&f.count, "count", "n", 0, "end after this many messages")
	flags.DurationVarP(&f.wait, "wait", "W", 0, "end after this time; with --count and fewer messages the exit code is 1")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print the topic before the payload")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
	flags.DurationVar(&f.connect.sessionExpiry, "session-expiry", 0, "keep the session of --client-id for this time: what comes meanwhile at QoS 1 and 2\nis printed next time (3.x: any value, the server says how long)")
	flags.BoolVar(&f.noLocal, "no-local", false, "not what this client publishes (5.0)")
	flags.BoolVar(&f.asPublished, "retain-as-published", false, "keep the retain flag of live messages (5.0)")
	flags.BoolVar(&f.noRetained, "no-retained", false, "not what was retained before (5.0)")
	_ = c.MarkFlagRequired("topic")
	return c
}

func (f *subFlags) run(ctx context.Context, s Streams) error {
	if f.qos > 2 {
		return fmt.Errorf("--qos %d: want 0, 1 or 2", f.qos)
	}
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output %q: want text or json", f.output)
	}
	if (f.noLocal || f.asPublished || f.noRetained) && versions[f.connect.protocol] != mqtt.V5 {
		return fmt.Errorf("--protocol %s: has no subscription options; they are of 5.0", f.connect.protocol)
	}
	conn, err := f.connect.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing of ours is owed
	subscribed := make(chan error, 1)
	go func() { subscribed <- f.subscribe(ctx, conn) }() // what a session was kept comes before SUBACK
	var timeout <-chan time.Time
	for n := 0; f.count == 0 || n < f.count; n++ {
		select {
		case err := <-subscribed:
			if err != nil {
				return err
			}
			if f.wait > 0 {
				t := time.NewTimer(f.wait)
				defer t.Stop()
				timeout = t.C
			}
			subscribed = nil
			n--
		case m, ok := <-conn.Messages():
			if !ok {
				return conn.Err()
			}
			if err := f.print(s, m); err != nil {
				return err
			}
			if err := m.Ack(); err != nil {
				return err
			}
		case <-timeout:
			if f.count > 0 {
				return fmt.Errorf("%d of %d messages came within %s", n, f.count, f.wait)
			}
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func (f *subFlags) subscribe(ctx context.Context, conn *client.Client) error {
	p := &mqtt.Subscribe{}
	for _, filter := range f.filters {
		sub := mqtt.Subscription{Filter: []byte(filter), QoS: mqtt.QoS(f.qos), NoLocal: f.noLocal, RetainAsPublished: f.asPublished}
		if f.noRetained {
			sub.RetainHandling = mqtt.RetainDoNotSend
		}
		p.Subscriptions = append(p.Subscriptions, sub)
	}
	reasons, err := conn.Subscribe(ctx, p)
	if err != nil {
		return err
	}
	var refused []error
	for i, r := range reasons {
		if r.Failed() {
			refused = append(refused, fmt.Errorf("%s: %w", f.filters[i], &client.Refused{Packet: mqtt.SUBSCRIBE, Reason: r}))
		}
	}
	return errors.Join(refused...)
}

// harmless is a topic in a form that does nothing to a terminal and stays on its line.
func harmless(topic string) string {
	if strings.ContainsFunc(topic, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(topic)
	}
	return topic
}

// line is one message of -o json.
type line struct {
	Topic           string      `json:"topic"`
	Payload         string      `json:"payload"`
	Encoding        string      `json:"encoding,omitempty"`
	QoS             mqtt.QoS    `json:"qos"`
	Retain          bool        `json:"retain,omitempty"`
	ContentType     string      `json:"content_type,omitempty"`
	ResponseTopic   string      `json:"response_topic,omitempty"`
	CorrelationData []byte      `json:"correlation_data,omitempty"`
	Expiry          uint32      `json:"expiry,omitempty"`
	UserProperties  [][2]string `json:"user_properties,omitempty"`
}

func (f *subFlags) print(s Streams, m *client.Message) error {
	if f.output == "text" {
		if f.verbose {
			_, err := fmt.Fprintf(s.Out, "%s %s\n", harmless(m.Topic), m.Payload)
			return err
		}
		_, err := fmt.Fprintf(s.Out, "%s\n", m.Payload)
		return err
	}
	l := line{Topic: m.Topic, Payload: string(m.Payload), QoS: m.QoS, Retain: m.Retain}
	if !utf8.Valid(m.Payload) {
		l.Payload, l.Encoding = base64.StdEncoding.EncodeToString(m.Payload), "base64"
	}
	p := &m.Properties
	l.ContentType, l.ResponseTopic, l.CorrelationData, l.Expiry = string(p.ContentType), string(p.ResponseTopic), p.CorrelationData, p.MessageExpiry
	for _, u := range p.User {
		l.UserProperties = append(l.UserProperties, [2]string{string(u.Key), string(u.Value)})
	}
	return json.NewEncoder(s.Out).Encode(l)
}
