package stateful

import (
	"sync/atomic"
	"testing"
	"time"

	"cloudsignal/internal/mqtt"
)

// tamperedPatience is how long a lost packet is waited for where packets are lost on purpose.
const tamperedPatience = 2 * time.Second

// nth tampers with the n-th packet that fits, and with none before and behind it. change may be nil: the packet is lost.
func nth[K mqtt.Packet](n int64, fits func(*peer, K) bool, change func(K) []mqtt.Packet) func() tamper {
	return func() tamper {
		var seen atomic.Int64
		return func(p *peer, packet mqtt.Packet) []mqtt.Packet {
			k, ok := packet.(K)
			if !ok || !fits(p, k) || seen.Add(1) != n {
				return []mqtt.Packet{packet}
			}
			if change == nil {
				return nil
			}
			return change(k)
		}
	}
}

func toWatcher(p *peer, k *mqtt.Publish) bool { return p.watcher && !k.Dup && len(k.Payload) > 0 }

func live(_ *peer, k *mqtt.Publish) bool { return !k.Retain && !k.Dup && len(k.Payload) > 0 }

func ack(t mqtt.Type) func(*peer, *mqtt.Ack) bool {
	return func(_ *peer, k *mqtt.Ack) bool { return k.Type == t }
}

// faults are what a broker may do wrong.
var faults = []struct {
	name string
	make func() tamper
}{
	{"a message comes twice", nth(3, toWatcher, func(k *mqtt.Publish) []mqtt.Packet {
		again := *k
		again.QoS, again.ID = 0, 0
		return []mqtt.Packet{k, &again}
	})},
	{"an acknowledged message is lost", nth(1, func(p *peer, k *mqtt.Publish) bool {
		return p.watcher && k.QoS > 0 && len(k.Payload) > 4 && string(k.Payload[len(k.Payload)-5:]) == "tick3"
	}, nil)},
	{"QoS is raised", nth(2, live, func(k *mqtt.Publish) []mqtt.Packet {
		k.QoS, k.ID = 2, 60_000
		return []mqtt.Packet{k, k}
	})},
	{"another topic", nth(3, live, func(k *mqtt.Publish) []mqtt.Packet {
		k.Topic, k.Properties = []byte("elsewhere"), mqtt.Properties{}
		return []mqtt.Packet{k}
	})},
	{"another organization's payload", nth(3, live, func(k *mqtt.Publish) []mqtt.Packet {
		k.Payload = []byte("r0.n1")
		return []mqtt.Packet{k}
	})},
	{"RETAIN is set", nth(1, toWatcher, func(k *mqtt.Publish) []mqtt.Packet {
		k.Retain = true
		return []mqtt.Packet{k}
	})},
	{"an identifier in use", nth(4, func(p *peer, k *mqtt.Publish) bool { return !p.auto && k.QoS > 0 }, func(k *mqtt.Publish) []mqtt.Packet {
		return []mqtt.Packet{k, k}
	})},
	{"PUBACK of another identifier", nth(2, ack(mqtt.PUBACK), func(k *mqtt.Ack) []mqtt.Packet { k.ID++; return []mqtt.Packet{k} })},
	{"PUBACK twice", nth(2, ack(mqtt.PUBACK), func(k *mqtt.Ack) []mqtt.Packet { return []mqtt.Packet{k, k} })},
	{"PUBREC is lost", nth(2, func(p *peer, k *mqtt.Ack) bool { return p.auto && k.Type == mqtt.PUBREC }, nil)},
	{"PUBREL that nobody asked for", nth(1, ack(mqtt.PUBACK), func(k *mqtt.Ack) []mqtt.Packet {
		return []mqtt.Packet{k, &mqtt.Ack{Type: mqtt.PUBREL, ID: 30_000}}
	})},
	{"SUBACK grants another QoS", nth(9, func(*peer, *mqtt.Suback) bool { return true }, func(k *mqtt.Suback) []mqtt.Packet {
		k.Reasons[0] = (k.Reasons[0] + 1) % 3
		return []mqtt.Packet{k}
	})},
	{"a session that was not there", nth(2, func(_ *peer, k *mqtt.Connack) bool { return k.Reason == mqtt.Success }, func(k *mqtt.Connack) []mqtt.Packet {
		k.SessionPresent = true
		return []mqtt.Packet{k}
	})},
	{"wrong credentials are accepted", nth(1, func(_ *peer, k *mqtt.Connack) bool { return k.Reason.Failed() }, func(*mqtt.Connack) []mqtt.Packet {
		return []mqtt.Packet{&mqtt.Connack{}}
	})},
	{"DISCONNECT for another reason", nth(1, func(*peer, *mqtt.Disconnect) bool { return true }, func(k *mqtt.Disconnect) []mqtt.Packet {
		k.Reason = mqtt.QuotaExceeded
		return []mqtt.Packet{k}
	})},
	{"PINGRESP that nobody asked for", nth(20, func(*peer, *mqtt.Ack) bool { return true }, func(k *mqtt.Ack) []mqtt.Packet {
		return []mqtt.Packet{k, &mqtt.Ping{Type: mqtt.PINGRESP}}
	})},
}

// TestStatefulFindsFaults plants one mistake at a time into what the server sends: the model must find each.
func TestStatefulFindsFaults(t *testing.T) {
	const seeds = 4
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= seeds; seed++ {
				w := newWorld(t)
				w.patience = tamperedPatience
				fault, _ := newPlan(seed).execute(w, f.make())
				w.close()
				if fault != "" {
					t.Log(fault)
					return
				}
			}
			t.Errorf("it was not found with %d seeds", seeds)
		})
	}
}

// TestStatefulShrinks: a mistake is found with few operations.
func TestStatefulShrinks(t *testing.T) {
	p := newPlan(1)
	p.operations = p.operations[:100]
	twice := nth(1, func(p *peer, k *mqtt.Publish) bool { return !p.watcher }, func(k *mqtt.Publish) []mqtt.Packet {
		again := *k
		again.Topic, again.Properties = []byte("elsewhere"), mqtt.Properties{}
		return []mqtt.Packet{k, &again}
	})
	short, fault := p.shrink(t, twice, 15*time.Second)
	if fault == "" || len(short.operations) > 30 { // as far as it gets in that time on a slow machine
		t.Errorf("%d of %d operations are left: %s\n%s", len(short.operations), len(p.operations), fault, short)
	}
}
