package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cloudsignal/internal/client"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/topic"
)

// maxLine bounds one line of --lines, in bytes.
const maxLine = 16 << 20

type pubFlags struct {
	connect                    connectFlags
	topic, message, file       string
	lines, retain              bool
	qos                        uint8
	output                     string
	properties                 []string
	contentType, responseTopic string
	correlation                string
	expiry                     uint32
}

func newPub(s Streams) *cobra.Command {
	f := &pubFlags{}
	c := &cobra.Command{
		Use:   "pub -t TOPIC (-m MESSAGE | -f FILE | --lines)",
		Short: "Publish messages",
		Example: "  cloudsignal pub --credentials data/bootstrap.json --as agent-01 --ca data/tls/ca.pem \\\n" +
			"    -t agents/agent-01/status -m online -q 1",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), c.Flags().Changed("message"), s) },
	}
	flags := c.Flags()
	f.connect.register(flags)
	flags.StringVarP(&f.topic, "topic", "t", "", "topic name")
	flags.StringVarP(&f.message, "message", "m", "", "payload; may be empty")
	flags.StringVarP(&f.file, "file", "f", "", "file with the payload, - for standard input")
	flags.BoolVar(&f.lines, "lines", false, "one message for each line of standard input")
	flags.Uint8VarP(&f.qos, "qos", "q", 0, "0, 1 or 2")
	flags.BoolVarP(&f.retain, "retain", "r", false, "have the server keep it for new subscribers")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json (one object per message)")
	flags.StringArrayVar(&f.properties, "user-property", nil, "NAME=VALUE, any number, in order (5.0)")
	flags.StringVar(&f.contentType, "content-type", "", "content type (5.0)")
	flags.StringVar(&f.responseTopic, "response-topic", "", "where an answer is wanted (5.0)")
	flags.StringVar(&f.correlation, "correlation-data", "", "what the answer is to carry (5.0)")
	flags.Uint32Var(&f.expiry, "expiry", 0, "seconds after which the message is not delivered any more (5.0)")
	_ = c.MarkFlagRequired("topic")
	return c
}

func (f *pubFlags) run(ctx context.Context, hasMessage bool, s Streams) error {
	if err := f.check(hasMessage); err != nil {
		return err
	}
	p, err := f.publish()
	if err != nil {
		return err
	}
	conn, err := f.connect.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every message has been answered for
	refused := false
	err = f.each(s.In, func(payload []byte) error {
		p.Payload = payload
		reason, err := conn.Publish(ctx, p)
		if err != nil {
			return err
		}
		refused = refused || reason.Failed()
		return f.report(s, reason)
	})
	if err == nil && refused {
		return ErrReported
	}
	return err
}

func (f *pubFlags) check(hasMessage bool) error {
	given := 0
	for _, g := range []bool{hasMessage, f.file != "", f.lines} {
		if g {
			given++
		}
	}
	props := f.properties != nil || f.contentType != "" || f.responseTopic != "" || f.correlation != "" || f.expiry != 0
	switch {
	case props && versions[f.connect.protocol] != mqtt.V5:
		return fmt.Errorf("--protocol %s: has no properties; they are of 5.0", f.connect.protocol)
	case given != 1:
		return errors.New("give the payload by one of --message, --file, --lines")
	case f.qos > 2:
		return fmt.Errorf("--qos %d: want 0, 1 or 2", f.qos)
	case topic.CheckName(f.topic, topic.Limits{Bytes: 1 << 16, Levels: 1 << 16}) != nil:
		return fmt.Errorf("--topic %q: %w", f.topic, topic.CheckName(f.topic, topic.Limits{Bytes: 1 << 16, Levels: 1 << 16}))
	case f.output != "text" && f.output != "json":
		return fmt.Errorf("--output %q: want text or json", f.output)
	}
	return nil
}

// publish makes the message of the flags, without its payload.
func (f *pubFlags) publish() (*mqtt.Publish, error) {
	p := &mqtt.Publish{QoS: mqtt.QoS(f.qos), Retain: f.retain, Topic: []byte(f.topic)}
	props := &p.Properties
	for _, pair := range f.properties {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("--user-property %q: want NAME=VALUE", pair)
		}
		props.User = append(props.User, mqtt.UserProperty{Key: []byte(name), Value: []byte(value)})
	}
	if f.contentType != "" {
		props.Set(mqtt.ContentType)
		props.ContentType = []byte(f.contentType)
	}
	if f.responseTopic != "" {
		props.Set(mqtt.ResponseTopic)
		props.ResponseTopic = []byte(f.responseTopic)
	}
	if f.correlation != "" {
		props.Set(mqtt.CorrelationData)
		props.CorrelationData = []byte(f.correlation)
	}
	if f.expiry != 0 {
		props.Set(mqtt.MessageExpiry)
		props.MessageExpiry = f.expiry
	}
	return p, nil
}

// each calls send for every payload that the flags name.
func (f *pubFlags) each(in io.Reader, send func([]byte) error) error {
	switch {
	case f.lines:
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			if err := send(lines.Bytes()); err != nil {
				return err
			}
		}
		return lines.Err()
	case f.file == "-":
		b, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		return send(b)
	case f.file != "":
		b, err := os.ReadFile(f.file)
		if err != nil {
			return fmt.Errorf("--file: %w", err)
		}
		return send(b)
	}
	return send([]byte(f.message))
}

func (f *pubFlags) report(s Streams, reason mqtt.Reason) error {
	if f.output == "json" {
		return json.NewEncoder(s.Out).Encode(map[string]any{"topic": f.topic, "qos": f.qos, "reason_code": reason, "reason": reason.String()})
	}
	if reason.Failed() {
		_, err := fmt.Fprintln(s.Err, (&client.Refused{Packet: mqtt.PUBLISH, Reason: reason}).Error())
		return err
	}
	return nil
}
