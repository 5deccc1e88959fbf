package mqtt

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var same = cmp.Options{cmp.AllowUnexported(Properties{}), cmpopts.EquateEmpty()}

// decodeAll decodes one packet that fills b.
func decodeAll(t testing.TB, v Version, b []byte) (Packet, error) {
	t.Helper()
	h, n, err := ReadHeader(b)
	if err != nil {
		return nil, err
	}
	if n == 0 || len(b) != n+h.Length {
		t.Fatalf("header of % x: n=%d length=%d of %d bytes", b, n, h.Length, len(b))
	}
	d := Decoder{Version: v}
	return d.Decode(h, b[n:])
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func props(f func(p *Properties)) Properties {
	var p Properties
	f(&p)
	return p
}

// vectors are packets with the bytes that the specification gives them.
var vectors = []struct {
	name   string
	v      Version
	hex    string
	packet Packet
}{
	{
		"connect 5.0", V5, "10 10 0004 4d515454 05 02 003c 00 0003 616263",
		&Connect{Version: V5, CleanStart: true, KeepAlive: 60, ClientID: []byte("abc")},
	},
	{
		"connect 5.0 with everything", V5,
		"10 28 0004 4d515454 05 f6 0000 05 11 0000000a 0001 63 05 18 00000005 0001 77 0001 70 0003 75406f 0002 7077",
		&Connect{
			Version: V5, CleanStart: true, ClientID: []byte("c"), Properties: props(func(p *Properties) { p.Set(SessionExpiry); p.SessionExpiry = 10 }),
			HasWill: true, WillQoS: 2, WillRetain: true, WillTopic: []byte("w"), WillPayload: []byte("p"),
			WillProperties: props(func(p *Properties) { p.Set(WillDelay); p.WillDelay = 5 }),
			HasUsername:    true, Username: []byte("u@o"), HasPassword: true, Password: []byte("pw"),
		},
	},
	{
		"connect 3.1.1 with a will", V311, "10 15 0004 4d515454 04 2e 000a 0001 63 0001 77 0003 010203",
		&Connect{
			Version: V311, CleanStart: true, KeepAlive: 10, ClientID: []byte("c"), HasWill: true, WillQoS: 1, WillRetain: true,
			WillTopic: []byte("w"), WillPayload: []byte{1, 2, 3},
		},
	},
	{
		"connect 3.1", V31, "10 15 0006 4d5149736470 03 c2 000a 0001 63 0001 75 0001 70",
		&Connect{
			Version: V31, CleanStart: true, KeepAlive: 10, ClientID: []byte("c"), HasUsername: true, Username: []byte("u"),
			HasPassword: true, Password: []byte("p"),
		},
	},
	{"connack 5.0", V5, "20 06 00 00 03 21 0014", &Connack{Properties: props(func(p *Properties) { p.Set(ReceiveMaximum); p.ReceiveMaximum = 20 })}},
	{"connack 3.1.1", V311, "20 02 01 00", &Connack{SessionPresent: true}},
	{"connack 3.1.1 refused", V311, "20 02 00 04", &Connack{Reason: BadUserNameOrPassword}},
	{"publish QoS 0", V311, "30 05 0001 61 6869", &Publish{Topic: []byte("a"), Payload: []byte("hi")}},
	{"publish QoS 2 5.0", V5, "3d 0c 0001 61 0007 05 02 0000003c 68", &Publish{
		Dup: true, QoS: 2, Retain: true, ID: 7, Topic: []byte("a"), Payload: []byte("h"),
		Properties: props(func(p *Properties) { p.Set(MessageExpiry); p.MessageExpiry = 60 }),
	}},
	{"publish with an alias", V5, "30 06 0000 03 23 0005", &Publish{Topic: []byte{}, Properties: props(func(p *Properties) { p.Set(TopicAlias); p.TopicAlias = 5 })}},
	{"puback short", V5, "40 02 0007", &Ack{Type: PUBACK, ID: 7}},
	{"puback with reason", V5, "40 03 0007 10", &Ack{Type: PUBACK, ID: 7, Reason: NoMatchingSubscribers}},
	{"pubrec with reason string", V5, "50 08 0007 87 04 1f 0001 78", &Ack{
		Type: PUBREC, ID: 7, Reason: NotAuthorized,
		Properties: props(func(p *Properties) { p.Set(ReasonString); p.ReasonString = []byte("x") }),
	}},
	{"pubrel", V311, "62 02 0007", &Ack{Type: PUBREL, ID: 7}},
	{"pubcomp", V5, "70 03 0007 92", &Ack{Type: PUBCOMP, ID: 7, Reason: PacketIDNotFound}},
	{"subscribe 5.0", V5, "82 09 0001 02 0b 05 0001 61 2d", &Subscribe{
		ID: 1, Properties: Properties{SubscriptionIDs: []uint32{5}},
		Subscriptions: []Subscription{{Filter: []byte("a"), QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: RetainDoNotSend}},
	}},
	{"subscribe 3.1.1", V311, "82 0a 0001 0001 61 02 0001 62 00", &Subscribe{
		ID:            1,
		Subscriptions: []Subscription{{Filter: []byte("a"), QoS: 2}, {Filter: []byte("b")}},
	}},
	{"suback 5.0", V5, "90 05 0001 00 01 87", &Suback{ID: 1, Reasons: []Reason{GrantedQoS1, NotAuthorized}}},
	{"unsubscribe", V5, "a2 06 0001 00 0001 61", &Unsubscribe{ID: 1, Filters: [][]byte{[]byte("a")}}},
	{"unsuback 5.0", V5, "b0 05 0001 00 00 11", &Unsuback{ID: 1, Reasons: []Reason{Success, NoSubscriptionExisted}}},
	{"unsuback 3.1.1", V311, "b0 02 0001", &Unsuback{ID: 1}},
	{"pingreq", V31, "c0 00", &Ping{Type: PINGREQ}},
	{"pingresp", V5, "d0 00", &Ping{Type: PINGRESP}},
	{"disconnect short", V5, "e0 00", &Disconnect{}},
	{"disconnect", V5, "e0 01 04", &Disconnect{Reason: DisconnectWithWill}},
	{"disconnect 3.1.1", V311, "e0 00", &Disconnect{}},
	{"auth", V5, "f0 07 18 05 15 0002 616d", &Auth{
		Reason:     ContinueAuthentication,
		Properties: props(func(p *Properties) { p.Set(AuthMethod); p.AuthMethod = []byte("am") }),
	}},
}

func TestVectors(t *testing.T) {
	for _, c := range vectors {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.hex)
			got, err := decodeAll(t, c.v, b)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.packet, got, same); d != "" {
				t.Errorf("decoded (-want +got):\n%s", d)
			}
			if enc := c.packet.Append([]byte("before"), c.v); string(enc) != "before"+string(b) {
				t.Errorf("encoded % x, want % x", enc[len("before"):], b)
			}
		})
	}
}

// A body that is cut anywhere is an error and nothing else; one byte more too, except where the rest is a payload.
func TestCutAnywhere(t *testing.T) {
	for _, c := range vectors {
		b := unhex(t, c.hex)
		h, n, _ := ReadHeader(b)
		for cut := n; cut < len(b); cut++ {
			d := Decoder{Version: c.v}
			p, err := d.Decode(h, b[n:cut])
			if err == nil {
				again := p.Append(nil, c.v) // a shorter packet that is one
				if cut-n != len(again)-2 && h.Type != DISCONNECT {
					t.Errorf("%s cut at %d: decoded % x as % x", c.name, cut, b[n:cut], again)
				}
			}
		}
		switch c.packet.(type) {
		case *Publish, *Suback, *Unsuback:
			continue // one more byte of the payload, one more reason
		case *Ack, *Disconnect:
			if c.v == V5 && len(b) < 7 {
				continue // the reason or the length of the properties, which may be missing
			}
		}
		d := Decoder{Version: c.v}
		if _, err := d.Decode(h, append(b[n:len(b):len(b)], 0)); err == nil {
			t.Errorf("%s with a byte more was accepted", c.name)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		v      Version
		hex    string
		reason Reason
	}{
		{"type 0", V5, "00 00", MalformedPacket},
		{"QoS 3", V5, "36 05 0001 61 0001", MalformedPacket},
		{"over-long remaining length", V5, "c0 80 00", MalformedPacket},
		{"five byte remaining length", V5, "c0 ff ff ff ff 01", MalformedPacket},
		{"flags of PINGREQ", V311, "c1 00", MalformedPacket},
		{"flags of PUBREL", V311, "60 02 0001", MalformedPacket},
		{"flags of SUBSCRIBE", V5, "80 06 0001 0001 61 00", MalformedPacket},
		{"flags of DISCONNECT", V5, "e1 00", MalformedPacket},
		{"first packet", 0, "c0 00", ProtocolError},
		{"level 6", 0, "10 0f 0004 4d515454 06 02 003c 0003 616263", UnsupportedProtocolVersion},
		{"name MQTX", 0, "10 0f 0004 4d515458 04 02 003c 0003 616263", UnsupportedProtocolVersion},
		{"name MQTT with level 3", 0, "10 0f 0004 4d515454 03 02 003c 0003 616263", UnsupportedProtocolVersion},
		{"reserved connect flag", 0, "10 0f 0004 4d515454 04 03 003c 0003 616263", MalformedPacket},
		{"will QoS without will", 0, "10 0f 0004 4d515454 04 0a 003c 0003 616263", MalformedPacket},
		{"will QoS 3", 0, "10 15 0004 4d515454 04 1e 003c 0003 616263 0001 61 0001 61", MalformedPacket},
		{"password without user name in 3.1.1", 0, "10 10 0004 4d515454 04 42 003c 0001 61 0001 61", MalformedPacket},
		{"a surrogate in the client id", 0, "10 0f 0004 4d515454 04 02 003c 0003 eda080", MalformedPacket},
		{"a null in the client id", 0, "10 0f 0004 4d515454 04 02 003c 0003 610061", MalformedPacket},
		{"over-long UTF-8", 0, "10 0e 0004 4d515454 04 02 003c 0002 c0af", MalformedPacket},
		{"receive maximum 0", 0, "10 10 0004 4d515454 05 02 003c 03 21 0000 0000", ProtocolError},
		{"maximum packet size 0", 0, "10 12 0004 4d515454 05 02 003c 05 27 00000000 0000", ProtocolError},
		{"request problem information 2", 0, "10 0f 0004 4d515454 05 02 003c 02 17 02 0000", ProtocolError},
		{"property twice", 0, "10 17 0004 4d515454 05 02 003c 0a 11 00000001 11 00000001 0000", ProtocolError},
		{"authentication data alone", 0, "10 11 0004 4d515454 05 02 003c 04 16 0001 61 0000", ProtocolError},
		{"property of another packet", 0, "10 10 0004 4d515454 05 02 003c 03 23 0001 0000", MalformedPacket},
		{"property that does not exist", 0, "10 0f 0004 4d515454 05 02 003c 02 7f 01 0000", MalformedPacket},
		{"properties longer than the packet", V5, "30 05 0001 61 7f 00", MalformedPacket},
		{"packet id 0", V5, "32 06 0001 61 0000 00", MalformedPacket},
		{"DUP at QoS 0", V311, "38 03 0001 61", MalformedPacket},
		{"empty topic in 3.1.1", V311, "30 02 0000", MalformedPacket},
		{"empty topic without alias", V5, "30 03 0000 00", ProtocolError},
		{"topic alias 0", V5, "30 07 0001 61 03 23 0000", TopicAliasInvalid},
		{"SUBSCRIBE without filter", V5, "82 03 0001 00", ProtocolError},
		{"SUBSCRIBE without filter in 3.1.1", V311, "82 02 0001", ProtocolError},
		{"SUBSCRIBE QoS 3", V5, "82 07 0001 00 0001 61 03", MalformedPacket},
		{"reserved option bits", V5, "82 07 0001 00 0001 61 40", MalformedPacket},
		{"5.0 options in 3.1.1", V311, "82 06 0001 0001 61 04", MalformedPacket},
		{"retain handling 3", V5, "82 07 0001 00 0001 61 30", ProtocolError},
		{"UNSUBSCRIBE without filter", V5, "a2 03 0001 00", ProtocolError},
		{"PUBREL with a reason of PUBACK", V5, "62 03 0001 87", MalformedPacket},
		{"bytes behind PUBACK in 3.1.1", V311, "40 03 0001 00", MalformedPacket},
		{"AUTH in 3.1.1", V311, "f0 00", MalformedPacket},
		{"PINGREQ with a body", V311, "c0 01 00", MalformedPacket},
		{"acknowledge flags", V5, "20 03 02 00 00", MalformedPacket},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeAll(t, c.v, unhex(t, c.hex))
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.reason {
				t.Fatalf("got %v, want %v", err, c.reason)
			}
		})
	}
}

func TestRefusedByValue(t *testing.T) {
	for _, c := range []struct {
		name   string
		packet Packet
		reason Reason
	}{
		{"subscription identifier 0", &Subscribe{ID: 1, Properties: Properties{SubscriptionIDs: []uint32{0}}, Subscriptions: []Subscription{{Filter: []byte("a")}}}, ProtocolError},
		{"subscription identifier twice", &Subscribe{ID: 1, Properties: Properties{SubscriptionIDs: []uint32{1, 2}}, Subscriptions: []Subscription{{Filter: []byte("a")}}}, ProtocolError},
		{"no local and shared", &Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: []byte("$share/g/a"), NoLocal: true}}}, ProtocolError},
		{"1,001 filters", &Subscribe{ID: 1, Subscriptions: repeat(Subscription{Filter: []byte("a")}, 1001)}, QuotaExceeded},
		{"1,001 filters to unsubscribe", &Unsubscribe{ID: 1, Filters: repeat([]byte("a"), 1001)}, QuotaExceeded},
		{"1,001 user properties", &Publish{Topic: []byte("a"), Properties: Properties{User: repeat(UserProperty{}, 1001)}}, QuotaExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeAll(t, V5, c.packet.Append(nil, V5))
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.reason {
				t.Fatalf("got %v, want %v", err, c.reason)
			}
		})
	}
}

func repeat[T any](v T, n int) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = v
	}
	return all
}

func TestVarint(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152, MaxRemainingLength} {
		b := AppendVarint(nil, n)
		if len(b) != VarintLen(n) {
			t.Errorf("VarintLen(%d) = %d, encoded in %d", n, VarintLen(n), len(b))
		}
		for cut := range b {
			if _, used, ok := varint(b[:cut]); used != 0 || !ok {
				t.Errorf("% x cut at %d is not a beginning", b, cut)
			}
		}
		if got, used, ok := varint(append(b, 0xff)); got != n || used != len(b) || !ok {
			t.Errorf("varint(% x) = %d, %d, %v", b, got, used, ok)
		}
	}
}

func TestAppendFitted(t *testing.T) {
	p := Disconnect{Reason: QuotaExceeded}
	p.Properties.Set(ReasonString)
	p.Properties.ReasonString = []byte("0123456789")
	p.Properties.User = []UserProperty{{[]byte("key"), []byte("value")}}
	before := p
	for _, c := range []struct {
		limit  uint32
		length int
		ok     bool
	}{{0, 30, true}, {30, 30, true}, {29, 17, true}, {17, 17, true}, {16, 3, true}, {3, 3, true}, {2, 0, false}} {
		out, ok := AppendFitted([]byte("x"), &p, V5, c.limit)
		if len(out)-1 != c.length || ok != c.ok {
			t.Errorf("limit %d: %d bytes, %v; want %d, %v", c.limit, len(out)-1, ok, c.length, c.ok)
		}
	}
	if d := cmp.Diff(before, p, same); d != "" {
		t.Errorf("the packet has changed:\n%s", d)
	}
	pub := Publish{Topic: []byte("a"), Properties: Properties{User: p.Properties.User}}
	if _, ok := AppendFitted(nil, &pub, V5, 10); ok {
		t.Error("a PUBLISH was cut")
	}
}

func TestOldVersionsHaveNoReasons(t *testing.T) {
	for _, c := range []struct {
		packet Packet
		v      Version
		hex    string
	}{
		{&Suback{ID: 1, Reasons: []Reason{1, NotAuthorized, QuotaExceeded}}, V311, "90 05 0001 01 80 80"},
		{&Suback{ID: 1, Reasons: []Reason{1, NotAuthorized}}, V31, "90 04 0001 01 00"},
		{&Ack{Type: PUBACK, ID: 1, Reason: NotAuthorized}, V311, "40 02 0001"},
		{&Connack{Reason: NotAuthorized, SessionPresent: true}, V311, "20 02 00 05"},
		{&Connack{SessionPresent: true}, V31, "20 02 00 00"},
		{&Connack{Reason: QuotaExceeded}, V31, "20 02 00 03"},
		{&Disconnect{Reason: QuotaExceeded}, V311, "e0 00"},
		{&Auth{}, V311, ""},
	} {
		if got := c.packet.Append(nil, c.v); string(got) != string(unhex(t, c.hex)) {
			t.Errorf("%T in %s: % x, want %s", c.packet, c.v, got, c.hex)
		}
	}
}

func TestDUPOf31(t *testing.T) {
	for _, s := range []string{"6a 02 0001", "8a 06 0001 0001 61 00", "aa 05 0001 0001 61"} {
		if _, err := decodeAll(t, V31, unhex(t, s)); err != nil {
			t.Errorf("%s in 3.1: %v", s, err)
		}
		if _, err := decodeAll(t, V311, unhex(t, s)); err == nil {
			t.Errorf("%s in 3.1.1 was accepted", s)
		}
	}
}

func TestAppendAck(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		for _, kind := range []Type{PUBACK, PUBREC, PUBREL, PUBCOMP} {
			for _, r := range []Reason{Success, PacketIDNotFound} {
				want := (&Ack{Type: kind, ID: 0x1234, Reason: r}).Append(nil, v)
				if got := AppendAck(nil, kind, 0x1234, r, v); string(got) != string(want) {
					t.Errorf("%s of %s with %s: % x, want % x", kind, v, r, got, want)
				}
			}
		}
	}
}
