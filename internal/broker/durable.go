package broker

import (
	"strings"
	"sync"

	"cloudsignal/internal/engine"
)

// maxDurableMatches bounds how many durable filters a message may match: each costs an entry in an index. It is looked at when
// a filter is made; what engine.MaxFilters allows is refused only when it is published.
const maxDurableMatches = 128

// privatePrefix begins the text of a filter that no topic matches: it has the retained messages that one session is owed.
const privatePrefix = "\x00"

// durable is a durable filter: its messages of QoS 1 and 2 are in the log for the sessions and groups that hold it. The tree
// has one mark for it, whoever is connected.
type durable struct {
	recipient recipient
	number    engine.Filter
	text      string
	holders   int  // sessions and groups, connected or not; guarded by the organization's mu
	made      bool // its record is durable; guarded by the organization's mu
	size      logSize

	mu        sync.Mutex // a connection's or a group's lock may be taken while it is held, not the other way round
	followers map[follower]struct{}
}

// join makes f follow. Messages whose commits were served before that are not told to it.
func (d *durable) join(f follower) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.followers == nil {
		d.followers = make(map[follower]struct{})
	}
	d.followers[f] = struct{}{}
}

// joinConn is join of a connection, unless it has ended: then it has left already, or is about to.
func (d *durable) joinConn(c *conn) {
	d.join(c)
	if c.isEnded() {
		d.leave(c)
	}
}

func (d *durable) leave(f follower) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.followers, f)
}

// arrive tells all followers.
func (d *durable) arrive(r *reader, a *arrival) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := range d.followers {
		if !f.arrive(r, a) {
			delete(d.followers, f)
		}
	}
}

// hold finds or makes the durable filter of a text for one more holder. The caller holds mu, until the batch that needs the
// filter is committed; operations get what makes it.
func (o *Organization) hold(text string, operations *[]engine.Operation) (*durable, error) {
	d := o.filters[text]
	if d == nil {
		number, err := o.store.NextFilter(o.number)
		if err != nil {
			return nil, err
		}
		d = o.enterDurable(number, text)
	}
	d.holders++
	if !d.made { // a batch before this one may fail
		*operations = append(*operations, engine.Operation{Op: engine.OpFilter, Filter: d.number, Text: text})
	}
	return d, nil
}

// enterDurable puts a durable filter into the tree. The caller holds mu.
func (o *Organization) enterDurable(number engine.Filter, text string) *durable {
	d := &durable{number: number, text: text}
	d.recipient = recipient{order: o.order.Add(1), durable: d}
	o.filters[text] = d
	o.filtered.Add(filterBytes(text))
	if !strings.HasPrefix(text, privatePrefix) {
		o.tree.Set(text, &d.recipient, &subscription{})
	}
	return d
}

// release is one holder less; without any, the filter and what is in its index goes. The caller holds mu.
func (o *Organization) release(d *durable, operations *[]engine.Operation) {
	if d.holders--; d.holders > 0 {
		return
	}
	delete(o.filters, d.text)
	o.filtered.Add(-filterBytes(d.text))
	o.cutLog(d, -1)
	o.tree.Delete(d.text, &d.recipient)
	*operations = append(*operations, engine.Operation{Op: engine.OpDropFilter, Filter: d.number})
}

// crowdedFilter reports whether a new durable filter would be one too many for the topics that it names: as many match one of
// them already. Filters that cross, such as "a/+" and "+/b", are not all seen.
func (o *Organization) crowdedFilter(r *reader, text string) bool {
	if o.filters[text] != nil {
		return false
	}
	sample := strings.NewReplacer("+", "\x01", "#", "\x01").Replace(text) // a level that no client can name
	hits, _ := o.tree.Match([]byte(sample), r.hits[:0])
	n := 0
	for i := range hits {
		if hits[i].Key.durable != nil {
			n++
		}
	}
	clear(hits)
	return n >= maxDurableMatches
}
