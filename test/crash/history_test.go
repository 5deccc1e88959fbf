package crash

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

// TestCheck judges made-up histories. Each step is a line of history; want are the faults, or none.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name  string
		qos   []mqtt.QoS
		steps string
		want  string
	}{
		{"all is well", both, "sub a t/#; send t/1; send t/1; ack t/1 1; ack t/1 2; get a t/1 1; get a t/1 2", ""},
		{"lost", both, "sub a t/#; send t/1; send t/1; ack t/1 1; ack t/1 2; get a t/1 2", "lost"},
		{"not acknowledged", both, "sub a t/#; send t/1", ""},
		{"sent before SUBACK", both, "send t/1; sub a t/#; ack t/1 1", ""},
		{"of another filter", both, "sub a u/#; send t/1; ack t/1 1", ""},
		{"one of two lost it", both, "sub a t/#; sub b t/1; send t/1; ack t/1 1; get b t/1 1", "lost"},
		{"twice with DUP", one, "sub a t/#; send t/1; ack t/1 1; get a t/1 1; get a t/1 1 dup", ""},
		{"twice with DUP at QoS 2", two, "sub a t/#; send t/1; ack t/1 1; get a t/1 1; get a t/1 1 dup", "duplicated"},
		{"twice without DUP", both, "sub a t/#; send t/1; ack t/1 1; get a t/1 1; get a t/1 1", "duplicated"},
		{"twice as sent twice", one, "sub a t/#; send t/1; resend t/1 1; ack t/1 1; get a t/1 1; get a t/1 1", ""},
		{"twice as sent twice at QoS 2", two, "sub a t/#; send t/1; resend t/1 1; ack t/1 1; get a t/1 1; get a t/1 1", "duplicated"},
		{"twice, not acknowledged", two, "sub a t/#; send t/1; get a t/1 1; get a t/1 1 dup", "duplicated"},
		{"out of order", both, "sub a t/#; send t/1; send t/1; get a t/1 2; get a t/1 1", "out of order"},
		{"out of order with DUP", both, "sub a t/#; send t/1; send t/1; get a t/1 2; get a t/1 1 dup", "out of order"},
		{"in order with a repetition", one, "sub a t/#; send t/1; send t/1; get a t/1 1; get a t/1 2; get a t/1 1 dup; get a t/1 2 dup", ""},
		{"order of two topics", both, "sub a t/#; send t/1; send t/2; get a t/2 1; get a t/1 1", ""},
		{"never sent", both, "sub a t/#; send t/1; get a t/1 2", "not published"},
		{"on an unknown topic", both, "sub a t/#; get a t/1 1", "not published"},
		{"not subscribed", both, "sub a t/#; send u/1; get a u/1 1", "not published"},
		{"group: any member", both, "sub a $share/g/t/#; sub b $share/g/t/#; send t/1; ack t/1 1; get b t/1 1", ""},
		{"group: lost", both, "sub a $share/g/t/#; sub b $share/g/t/#; send t/1; ack t/1 1", "lost"},
		{"group: two members", one, "sub a $share/g/t/#; sub b $share/g/t/#; send t/1; ack t/1 1; get a t/1 1; get b t/1 1", ""},
		{"group: two members at QoS 2", two, "sub a $share/g/t/#; sub b $share/g/t/#; send t/1; get a t/1 1; get b t/1 1", "duplicated"},
		{"group: any order", both, "sub a $share/g/t/#; send t/1; send t/1; get a t/1 2; get a t/1 1", ""},
		{"two groups", both, "sub a $share/g/t/#; sub b $share/h/t/#; send t/1; ack t/1 1; get a t/1 1", "lost"},
		{"will", both, "sub a w; will w; ack w 1; get a w 1", ""},
		{"will lost", both, "sub a w; will w; ack w 1", "will"},
		{"will twice", both, "sub a w; will w; ack w 1; get a w 1; get a w 1", "will"},
		{"will twice with DUP", one, "sub a w; will w; ack w 1; get a w 1; get a w 1 dup", ""},
		{"wills in any order", both, "sub a w; will w; will w; ack w 1; ack w 2; get a w 2; get a w 1", ""},
		{"will of nobody accepted", both, "sub a w; will w; get a w 1", ""},
		{"will taken back", both, "sub a w; will w; ack w 1; withdraw w 1", ""},
		{"will taken back comes", both, "sub a w; will w; ack w 1; withdraw w 1; get a w 1", "will"},
		{"DISCONNECT raced", both, "sub a w; will w; ack w 1; raced w 1; get a w 1", ""},
		{"retained", both, "send kept/1; send kept/1; ack kept/1 1; fresh f kept/#; get f kept/1 1", ""},
		{"retained, not acknowledged", both, "send kept/1; send kept/1; ack kept/1 1; fresh f kept/#; get f kept/1 2", ""},
		{"retained older", both, "send kept/1; send kept/1; ack kept/1 2; fresh f kept/#; get f kept/1 1", "retained"},
		{"retained not there", both, "send kept/1; ack kept/1 1; fresh f kept/#", "retained"},
		{"retained never acknowledged", both, "send kept/1; fresh f kept/#", ""},
		{"retained twice", both, "send kept/1; ack kept/1 1; fresh f kept/#; get f kept/1 1; get f kept/1 1", "retained"},
	} {
		for _, qos := range c.qos {
			v := history(qos, strings.Split(c.steps, "; ")...).check()
			var got []string
			for _, f := range v.faults {
				got = append(got, f.kind)
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("%s at QoS %d: faults %q, want %q", c.name, qos, s, c.want)
			}
		}
	}
}

var one, two, both = []mqtt.QoS{1}, []mqtt.QoS{2}, []mqtt.QoS{1, 2}

// history is made up: "sub NAME FILTER", "fresh NAME FILTER", "send TOPIC", "resend TOPIC N", "ack TOPIC N", "will TOPIC" (a
// connection with one), "withdraw TOPIC N", "raced TOPIC N", "get NAME TOPIC N [dup]". Topics below kept/ are retained ones.
func history(qos mqtt.QoS, steps ...string) *ledger {
	clock := time.Duration(0)
	l := newLedger(qos, func() time.Duration { clock++; return clock })
	names := make(map[string]*receiver)
	for _, step := range steps {
		w := strings.Fields(step)
		n := 0
		fmt.Sscan(w[min(2, len(w)-1)], &n) //nolint:errcheck // not every step has a number
		k := load
		if strings.HasPrefix(w[1], "kept/") {
			k = kept
		}
		switch w[0] {
		case "sub", "fresh":
			names[w[1]] = l.subscriber(w[1], w[2])
			names[w[1]].fresh = w[0] == "fresh"
			l.subscribed(names[w[1]])
		case "send":
			l.send(k, w[1])
		case "will":
			l.send(will, w[1])
		case "resend":
			l.resend(w[1], n)
		case "ack":
			l.acknowledge(w[1], n)
		case "withdraw", "raced":
			l.withdraw(w[1], n, w[0] == "withdraw")
		case "get":
			fmt.Sscan(w[3], &n) //nolint:errcheck // 0 is no message
			r := names[w[1]]
			l.deliver(r, &mqtt.Publish{
				Topic: []byte(w[2]), Payload: []byte(body(n)), QoS: qos, Dup: len(w) > 4, Retain: r.fresh,
			}, 1)
		default:
			panic(step)
		}
	}
	return l
}
