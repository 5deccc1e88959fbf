package conformance

import (
	"testing"

	"cloudsignal/internal/mqtt"
)

func TestWillIsPublished(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 2))
		for q := range mqtt.QoS(3) {
			p := w.connect(will(w.topic("will"), "gone"), func(c *mqtt.Connect) { c.WillQoS = q })
			p.quiet()
			seen.quiet()
			p.drop()
			seen.takes(w.topic("will"), "gone", q)
		}
		p := w.connect(will(w.topic("will"), "violation"))
		p.send(w.hello())
		p.ends(mqtt.ProtocolError)
		seen.takes(w.topic("will"), "violation", 0)
	}, both...)
}

// TestNoWillBehindDisconnect: the server closes when the will is gone, so a mark that is published then comes behind it.
func TestNoWillBehindDisconnect(t *testing.T) {
	each(t, func(w *world) {
		seen, other := w.connect(), w.connect()
		seen.subscribe(filter(w.topic("will"), 1))
		w.connect(will(w.topic("will"), "discarded")).leave()
		p := w.connect(durable, will(w.topic("will"), "discarded"))
		p.leave()
		other.publish(w.topic("will"), "mark", 1)
		seen.takes(w.topic("will"), "mark", 1)
		if w.v == mqtt.V5 {
			p = w.connect(will(w.topic("will"), "kept"))
			p.send(&mqtt.Disconnect{Reason: mqtt.DisconnectWithWill})
			p.closed()
			seen.takes(w.topic("will"), "kept", 0)
		}
		seen.quiet()
	}, both...)
}

func TestWillOnce(t *testing.T) {
	each(t, func(w *world) {
		seen, other := w.connect(), w.connect()
		seen.subscribe(filter(w.topic("will"), 1))
		p := w.connect(durable, will(w.topic("will"), "once"))
		p.drop()
		seen.takes(w.topic("will"), "once", 0)
		p = w.connect(durable, named(p.id)) // without a will
		next := w.connect(durable, named(p.id))
		p.ends(mqtt.SessionTakenOver)
		next.leave()
		other.publish(w.topic("will"), "mark", 1)
		seen.takes(w.topic("will"), "mark", 1)
	}, both...)
}

func TestNoWillFlagNoWill(t *testing.T) {
	each(t, func(w *world) {
		seen, other := w.connect(), w.connect()
		seen.subscribe(filter("+/will", 0), filter(w.topic("mark"), 1))
		p := w.connect(func(c *mqtt.Connect) { c.WillTopic, c.WillPayload = []byte(w.topic("will")), []byte("no flag") })
		next := w.connect(named(p.id))
		p.ends(mqtt.SessionTakenOver)
		next.leave()
		other.publish(w.topic("mark"), "m", 1)
		for { // what others publish comes too
			m := expect[*mqtt.Publish](seen)
			seen.settle(m)
			if string(m.Topic) == w.topic("mark") {
				return
			}
			if string(m.Topic) == w.topic("will") {
				w.Fatal("a will without its flag")
			}
		}
	}, both...)
}

func TestWillRetain(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("+"), 0))
		p := w.connect(will(w.topic("not"), "m"))
		p.drop()
		if seen.gets(w.topic("not"), "m", 0).Retain {
			w.Fatal("retain")
		}
		p = w.connect(will(w.topic("retained"), "m"), func(c *mqtt.Connect) { c.WillRetain = true })
		p.drop()
		seen.gets(w.topic("retained"), "m", 0)
		late := w.connect()
		late.subscribe(filter(w.topic("+"), 0))
		if !late.gets(w.topic("retained"), "m", 0).Retain {
			w.Fatal("no retain flag")
		}
		late.quiet()
	}, both...)
}

func TestWillProperties(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 1))
		user := []mqtt.UserProperty{{Key: []byte("b"), Value: []byte("1")}, {Key: []byte("a"), Value: []byte("2")}, {Key: []byte("b"), Value: []byte("0")}}
		p := w.connect(will(w.topic("will"), "m"), func(c *mqtt.Connect) {
			c.WillQoS = 1
			c.WillProperties.User = user
			c.WillProperties.Set(mqtt.ContentType)
			c.WillProperties.ContentType = []byte("text/plain")
		})
		p.drop()
		m := seen.takes(w.topic("will"), "m", 1)
		sameUser(w, m.Properties.User, user)
		if string(m.Properties.ContentType) != "text/plain" {
			w.Fatalf("content type %q", m.Properties.ContentType)
		}
	})
}

// TestWillDelay needs no clock: the will of a client that is back within its delay does not come before that of one that went
// later, with a longer delay.
func TestWillDelay(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 0))
		back := w.connect(durable, will(w.topic("will"), "suppressed"), willDelay(1))
		next := w.connect(durable, named(back.id)) // at once, however slow this machine is: its connection is taken over
		back.ends(mqtt.SessionTakenOver)
		left := w.connect(durable, will(w.topic("will"), "suppressed"), willDelay(1))
		w.connect(durable, named(left.id)).leave() // without it: the old one is gone all the same
		seen.quiet()
		gone := w.connect(durable, will(w.topic("will"), "delayed"), willDelay(2))
		gone.drop()
		seen.gets(w.topic("will"), "delayed", 0)
		next.quiet()
	})
}

// TestWillAtTheEndOfTheSession: the delay ends with the session, at DISCONNECT with an expiry of 0 and at a clean start.
func TestWillAtTheEndOfTheSession(t *testing.T) {
	each(t, func(w *world) {
		seen := w.connect()
		seen.subscribe(filter(w.topic("will"), 0))
		p := w.connect(will(w.topic("will"), "expiry 0"), willDelay(3600))
		p.drop()
		seen.gets(w.topic("will"), "expiry 0", 0)
		p = w.connect(expires(1), will(w.topic("will"), "expiry 1"), willDelay(3600))
		p.drop()
		seen.gets(w.topic("will"), "expiry 1", 0)
		p = w.connect(durable, will(w.topic("will"), "clean start"), willDelay(3600))
		w.connect(named(p.id))
		seen.gets(w.topic("will"), "clean start", 0)
		p = w.connect(durable, will(w.topic("will"), "goes on"), willDelay(3600))
		w.connect(durable, named(p.id))
		p.ends(mqtt.SessionTakenOver)
		seen.quiet()
	})
}

func sameUser(w *world, got, want []mqtt.UserProperty) {
	w.Helper()
	if len(got) != len(want) {
		w.Fatalf("%d user properties, want %d", len(got), len(want))
	}
	for i := range got {
		if string(got[i].Key) != string(want[i].Key) || string(got[i].Value) != string(want[i].Value) {
			w.Fatalf("user property %d is %s:%s", i, got[i].Key, got[i].Value)
		}
	}
}
