package scenario

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"cloudsignal/internal/mqtt"
)

// format writes a packet that the broker sent as one line: everything in it, in a fixed order.
func format(p mqtt.Packet) string {
	var b strings.Builder
	b.WriteString(p.Kind().String())
	switch p := p.(type) {
	case *mqtt.Connack:
		fmt.Fprintf(&b, " %s", p.Reason)
		if p.SessionPresent {
			b.WriteString(" session-present")
		}
		properties(&b, &p.Properties)
	case *mqtt.Publish:
		fmt.Fprintf(&b, " topic=%s payload=%s", p.Topic, payload(p.Payload))
		if p.QoS > 0 {
			fmt.Fprintf(&b, " qos=%d id=%d", p.QoS, p.ID)
		}
		if p.Retain {
			b.WriteString(" retain")
		}
		if p.Dup {
			b.WriteString(" dup")
		}
		properties(&b, &p.Properties)
	case *mqtt.Ack:
		fmt.Fprintf(&b, " id=%d", p.ID)
		if p.Reason != mqtt.Success {
			fmt.Fprintf(&b, " %s", p.Reason)
		}
		properties(&b, &p.Properties)
	case *mqtt.Suback:
		fmt.Fprintf(&b, " id=%d", p.ID)
		reasons(&b, p.Reasons, "Granted QoS 0")
		properties(&b, &p.Properties)
	case *mqtt.Unsuback:
		fmt.Fprintf(&b, " id=%d", p.ID)
		reasons(&b, p.Reasons, "Success")
		properties(&b, &p.Properties)
	case *mqtt.Disconnect:
		fmt.Fprintf(&b, " %s", p.Reason)
		properties(&b, &p.Properties)
	}
	return b.String()
}

func reasons(b *strings.Builder, all []mqtt.Reason, zero string) {
	for _, r := range all {
		if r == 0 {
			fmt.Fprintf(b, " [%s]", zero)
		} else {
			fmt.Fprintf(b, " [%s]", r)
		}
	}
}

func payload(b []byte) string {
	if len(b) > 128 {
		return fmt.Sprintf("(%d bytes)", len(b))
	}
	s := string(b)
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("hex:%x", b)
	}
	if strings.ContainsAny(s, " \"") || s == "" {
		return strconv.Quote(s)
	}
	return s
}

func properties(b *strings.Builder, p *mqtt.Properties) {
	numbers := []struct {
		id    mqtt.Property
		name  string
		value uint64
	}{
		{mqtt.PayloadFormat, "payload-format", uint64(p.PayloadFormat)},
		{mqtt.MessageExpiry, "expiry", uint64(p.MessageExpiry)},
		{mqtt.SessionExpiry, "session-expiry", uint64(p.SessionExpiry)},
		{mqtt.ServerKeepAlive, "server-keep-alive", uint64(p.ServerKeepAlive)},
		{mqtt.ReceiveMaximum, "receive-maximum", uint64(p.ReceiveMaximum)},
		{mqtt.MaximumPacketSize, "maximum-packet-size", uint64(p.MaximumPacketSize)},
		{mqtt.TopicAliasMaximum, "topic-alias-maximum", uint64(p.TopicAliasMaximum)},
		{mqtt.TopicAlias, "alias", uint64(p.TopicAlias)},
	}
	for _, n := range numbers {
		if p.Has(n.id) {
			fmt.Fprintf(b, " %s=%d", n.name, n.value)
		}
	}
	texts := []struct {
		id    mqtt.Property
		name  string
		value []byte
	}{
		{mqtt.AssignedClientID, "assigned-client-id", p.AssignedClientID},
		{mqtt.ContentType, "content-type", p.ContentType},
		{mqtt.ResponseTopic, "response-topic", p.ResponseTopic},
		{mqtt.CorrelationData, "correlation-data", p.CorrelationData},
		{mqtt.ReasonString, "reason-string", p.ReasonString},
	}
	for _, t := range texts {
		if p.Has(t.id) {
			fmt.Fprintf(b, " %s=%s", t.name, payload(t.value))
		}
	}
	for _, id := range slices.Sorted(slices.Values(p.SubscriptionIDs)) { // their order is not significant ([MQTT-3.3.4-4])
		fmt.Fprintf(b, " subscription-id=%d", id)
	}
	for _, u := range p.User {
		fmt.Fprintf(b, " user=%s:%s", u.Key, u.Value)
	}
}

// args are the words of a command line: key=value or a bare word. A key may come again.
type args map[string][]string

func parseArgs(words []string) args {
	a := make(args)
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		a[key] = append(a[key], value)
	}
	return a
}

func (a args) has(key string) bool { return len(a[key]) > 0 }

func (a args) text(key, otherwise string) string {
	if v := a[key]; len(v) > 0 {
		return v[0]
	}
	return otherwise
}

// number reads a decimal or 0x number; what is not one is an error of the scenario.
func (a args) number(key string, otherwise uint64) uint64 {
	v := a[key]
	if len(v) == 0 {
		return otherwise
	}
	n, err := strconv.ParseUint(v[0], 0, 32)
	if err != nil {
		panic(fmt.Sprintf("%s=%s is not a number", key, v[0]))
	}
	return n
}

// bytes is a value: as it stands, hex: and digits, or size: and a number of bytes.
func bytesOf(s string) []byte {
	if h, ok := strings.CutPrefix(s, "hex:"); ok {
		b, err := hex.DecodeString(h)
		if err != nil {
			panic(err)
		}
		return b
	}
	if n, ok := strings.CutPrefix(s, "size:"); ok {
		k, err := strconv.Atoi(n)
		if err != nil {
			panic(err)
		}
		return []byte(strings.Repeat("x", k))
	}
	return []byte(s)
}

// setProperties fills the properties that a command names.
func setProperties(p *mqtt.Properties, a args) {
	if a.has("expiry") {
		p.Set(mqtt.MessageExpiry)
		p.MessageExpiry = uint32(a.number("expiry", 0))
	}
	if a.has("payload-format") {
		p.Set(mqtt.PayloadFormat)
		p.PayloadFormat = uint8(a.number("payload-format", 0))
	}
	if a.has("session-expiry") {
		p.Set(mqtt.SessionExpiry)
		p.SessionExpiry = uint32(a.number("session-expiry", 0))
	}
	if a.has("delay") {
		p.Set(mqtt.WillDelay)
		p.WillDelay = uint32(a.number("delay", 0))
	}
	if a.has("receive-maximum") {
		p.Set(mqtt.ReceiveMaximum)
		p.ReceiveMaximum = uint16(a.number("receive-maximum", 0))
	}
	if a.has("maximum-packet-size") {
		p.Set(mqtt.MaximumPacketSize)
		p.MaximumPacketSize = uint32(a.number("maximum-packet-size", 0))
	}
	if a.has("topic-alias-maximum") {
		p.Set(mqtt.TopicAliasMaximum)
		p.TopicAliasMaximum = uint16(a.number("topic-alias-maximum", 0))
	}
	if a.has("problem-info") {
		p.Set(mqtt.RequestProblemInfo)
		p.RequestProblemInfo = uint8(a.number("problem-info", 0))
	}
	if a.has("alias") {
		p.Set(mqtt.TopicAlias)
		p.TopicAlias = uint16(a.number("alias", 0))
	}
	for key, field := range map[string]struct {
		id mqtt.Property
		to *[]byte
	}{
		"content-type": {mqtt.ContentType, &p.ContentType}, "response-topic": {mqtt.ResponseTopic, &p.ResponseTopic},
		"correlation-data": {mqtt.CorrelationData, &p.CorrelationData}, "auth-method": {mqtt.AuthMethod, &p.AuthMethod},
	} {
		if a.has(key) {
			p.Set(field.id)
			*field.to = bytesOf(a.text(key, ""))
		}
	}
	for i := range a["subscription-id"] {
		n, _ := strconv.ParseUint(a["subscription-id"][i], 10, 32)
		p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(n))
	}
	for _, u := range a["user"] {
		k, v, _ := strings.Cut(u, ":")
		p.User = append(p.User, mqtt.UserProperty{Key: []byte(k), Value: []byte(v)})
	}
}
