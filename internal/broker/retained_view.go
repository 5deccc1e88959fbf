package broker

import (
	"container/heap"
	"context"
	"slices"
	"strings"
	"time"

	"cloudsignal/internal/engine"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/mqtt"
	"cloudsignal/internal/session"
	"cloudsignal/internal/topic"
)

// RetainedPage bounds the sizes (Message.Size) of what Retained lists at a time, in bytes: behind the message that reaches it the list is cut.
const RetainedPage = 4 << 20

// Retained lists the retained messages under a filter whose topics are behind after, in the order of topics, at most limit (1 to
// 1,000), and no more than RetainedPage allows. Without a filter it lists those of "$" topics too. It holds up who publishes retained messages in the organization
// while it looks through all that match. Faults: Invalid (filter).
func (b *Broker) Retained(number uint64, filter, after string, limit int) ([]Message, error) {
	if filter != "" {
		if err := topic.CheckFilter(filter, topic.Limits{Bytes: maxText, Levels: maxText}); err != nil {
			return nil, fault.Field("filter", "%s", err.Error())
		}
	}
	o := b.home(number)
	if o == nil {
		return nil, nil
	}
	_, filter, _, _ = topic.SplitShare(filter)
	now := b.cfg.Now()
	first := lowest[*stored]{most: pageOf(limit)}
	visit := func(name string, s *stored) bool {
		if name > after && !s.Expired(now) {
			first.offer(name, s)
		}
		return true
	}
	o.retained.mu.Lock()
	if filter == "" {
		o.retained.names.All(visit)
	} else {
		o.retained.names.Match(filter, visit)
	}
	page := first.sorted()
	for i := range page {
		page[i].value.Hold()
	}
	o.retained.mu.Unlock()
	all, size := make([]Message, 0, len(page)), 0
	for i := range page {
		if size < RetainedPage {
			all = append(all, page[i].value.outside(now))
			size += all[len(all)-1].Size()
		}
		page[i].value.Release()
	}
	return all, nil
}

// RetainedMessage is the retained message of a topic, if there is one.
func (b *Broker) RetainedMessage(number uint64, name string) (Message, bool, error) {
	o := b.home(number)
	if o == nil {
		return Message{}, false, nil
	}
	now := b.cfg.Now()
	o.retained.mu.Lock()
	defer o.retained.mu.Unlock()
	s, had := o.retained.names.Get([]byte(name))
	if !had || s.Expired(now) {
		return Message{}, false, nil
	}
	return s.outside(now), true, nil
}

// DeleteRetained removes the retained message of a topic, and tells whether there was one. Subscribers are not told. It is durable
// when it returns; if ctx ends before that, it may be done all the same.
func (b *Broker) DeleteRetained(ctx context.Context, number uint64, name string) (bool, error) {
	o := b.home(number)
	if o == nil {
		return false, nil
	}
	t := &o.retained
	t.mu.Lock()
	s, had := t.names.Get([]byte(name))
	if !had {
		t.mu.Unlock()
		return false, nil
	}
	expired := s.Expired(b.cfg.Now())
	t.remove(name)
	done := make(chan error, 1)
	operation := engine.Operation{Op: engine.OpUnretain, Text: name}
	o.commit(&engine.Batch{Organization: o.number, Operations: []engine.Operation{operation}}, func(_ *reader, _ engine.Position, err error) { done <- err })
	t.mu.Unlock()
	select {
	case err := <-done:
		return !expired && err == nil, fault.Wrap(fault.Unavailable, err, "the retained message could not be removed")
	case <-ctx.Done():
		return false, fault.Wrap(fault.Unavailable, ctx.Err(), "nobody waited until the retained message was removed")
	}
}

// outside is a retained message as the API sees it. The caller holds the message.
func (s *stored) outside(now time.Time) Message {
	m := outsideOf(s.Message, now)
	m.Retain, m.At, m.PublisherID = true, s.at, s.from
	return m
}

// outsideOf copies a message. What is recorded of it is what a PUBLISH of 5.0 at QoS 0 has behind its header.
func outsideOf(m *session.Message, now time.Time) Message {
	out := Message{Topic: string(m.Topic()), Payload: slices.Clone(m.Payload()), QoS: uint8(m.QoS()), Retain: m.Retain()}
	if at := m.ExpiresAt(); at != 0 {
		left := max(0, at-now.UnixNano())
		out.Expiry = uint32((left + int64(time.Second) - 1) / int64(time.Second))
	}
	d := mqtt.Decoder{Version: mqtt.V5}
	p, err := d.Decode(mqtt.Header{Type: mqtt.PUBLISH, Length: len(m.Body())}, m.Body())
	if err != nil {
		return out // it was checked when it came
	}
	props := &p.(*mqtt.Publish).Properties
	if props.Has(mqtt.ContentType) {
		out.ContentType = string(props.ContentType)
	}
	if props.Has(mqtt.ResponseTopic) {
		out.ResponseTopic = string(props.ResponseTopic)
	}
	if props.Has(mqtt.CorrelationData) {
		out.CorrelationData = slices.Clone(props.CorrelationData)
	}
	for _, u := range props.User {
		out.UserProperties = append(out.UserProperties, [2]string{string(u.Key), string(u.Value)})
	}
	return out
}

// lowest keeps those of many with the lowest names: a page of a list that is in no order, without sorting all of it.
type lowest[V any] struct {
	most int
	all  []listed[V] // a heap, the highest name on top
}

type listed[V any] struct {
	name  string
	value V
}

func (l *lowest[V]) Len() int           { return len(l.all) }
func (l *lowest[V]) Less(i, j int) bool { return l.all[i].name > l.all[j].name }
func (l *lowest[V]) Swap(i, j int)      { l.all[i], l.all[j] = l.all[j], l.all[i] }

// Push is for package heap.
func (l *lowest[V]) Push(x any) { l.all = append(l.all, x.(listed[V])) }

// Pop is for package heap.
func (l *lowest[V]) Pop() any {
	last := l.all[len(l.all)-1]
	l.all = l.all[:len(l.all)-1]
	return last
}

func (l *lowest[V]) offer(name string, v V) {
	switch {
	case len(l.all) < l.most:
		heap.Push(l, listed[V]{name, v})
	case name < l.all[0].name:
		l.all[0] = listed[V]{name, v}
		heap.Fix(l, 0)
	}
}

func (l *lowest[V]) sorted() []listed[V] {
	slices.SortFunc(l.all, func(a, b listed[V]) int { return strings.Compare(a.name, b.name) })
	return l.all
}
