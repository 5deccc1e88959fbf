package pebble

import (
	"container/heap"

	"github.com/cockroachdb/pebble/v2"

	"cloudsignal/internal/engine"
)

// A page merges the indexes of a session's filters by position. All share one iterator, which is moved from one index to
// the next: each filter has a few entries read ahead, and the nearest of them is the next message. A page over many
// filters so costs a seek for each, and memory for a few entries of each.

const (
	readAhead    = 256 // entries, divided among the filters of a page
	minReadAhead = 4
	entryBytes   = 64 // what a message counts beside its body and publisher
)

// source is one filter of a page.
type source struct {
	filter engine.Filter
	from   engine.Position // to read from next
	ahead  []item
	next   int // in ahead
	done   bool
}

type item struct {
	position engine.Position
	inline   []byte // nil: the body is a shared one
}

func (c *source) position() engine.Position { return c.ahead[c.next].position }

// page is a merge under way, a heap of sources that have an entry.
type page struct {
	reader       pebble.Reader
	iter         *pebble.Iterator
	organization uint64
	upTo         engine.Position
	ahead        int
	sources      []*source
}

func (p *page) Len() int           { return len(p.sources) }
func (p *page) Less(i, j int) bool { return p.sources[i].position() < p.sources[j].position() }
func (p *page) Swap(i, j int)      { p.sources[i], p.sources[j] = p.sources[j], p.sources[i] }
func (p *page) Push(x any)         { p.sources = append(p.sources, x.(*source)) }

func (p *page) Pop() any {
	last := len(p.sources) - 1
	c := p.sources[last]
	p.sources = p.sources[:last]
	return c
}

// Page appends to dst the messages behind after, up to upTo and the durable head, of filters (distinct ones) in order of
// position: a message of several filters once, with those. It stops when bodies, publishers and 64 bytes each come to
// maxBytes, and returns at least one message if there is any. next is where to go on: the after of the next page; the
// end is reached when it is upTo, or the head. Nothing is kept open.
func (s *Store) Page(organization uint64, filters []engine.Filter, after, upTo engine.Position, maxBytes int, dst []engine.Match,
) (matches []engine.Match, next engine.Position, err error) {
	head, err := s.Head(organization) // before the view: all up to it is in there
	if err != nil {
		return dst, after, err
	}
	if upTo = min(upTo, head); after >= upTo {
		return dst, after, nil
	}
	err = s.read(func(r pebble.Reader) error {
		p := &page{reader: r, organization: organization, upTo: upTo, ahead: max(minReadAhead, readAhead/max(1, len(filters)))}
		if p.iter, err = r.NewIter(nil); err != nil {
			return err
		}
		if err = p.start(filters, after); err == nil {
			dst, next, err = p.merge(maxBytes, dst)
		}
		if closed := p.iter.Close(); err == nil {
			err = closed
		}
		return err
	})
	if err != nil {
		return dst, after, err
	}
	return dst, next, nil
}

func (p *page) start(filters []engine.Filter, from engine.Position) error {
	for _, f := range filters {
		cut, err := trimOf(p.reader, p.organization, f)
		if err != nil {
			return err
		}
		c := &source{filter: f, from: max(from, cut) + 1}
		if err := p.fill(c); err != nil {
			return err
		}
		if len(c.ahead) > 0 {
			p.sources = append(p.sources, c)
		}
	}
	heap.Init(p)
	return nil
}

// fill reads a source's next entries. It leaves none at the end.
func (p *page) fill(c *source) error {
	c.ahead, c.next = c.ahead[:0], 0
	if c.done || c.from > p.upTo {
		return nil
	}
	p.iter.SetBounds(keyIndex(nil, p.organization, c.filter, c.from), keyIndex(nil, p.organization, c.filter, p.upTo+1))
	valid := p.iter.First()
	for ; valid && len(c.ahead) < p.ahead; valid = p.iter.Next() {
		e, err := decodeIndexEntry(p.iter.Value())
		if err != nil {
			return err
		}
		i := item{position: engine.Position(last8(p.iter.Key()))}
		if e.inline != nil {
			i.inline = clone(e.inline)
		}
		c.ahead = append(c.ahead, i)
		c.from = i.position + 1
	}
	c.done = !valid
	return p.iter.Error()
}

func (p *page) merge(maxBytes int, dst []engine.Match) ([]engine.Match, engine.Position, error) {
	bytes := 0
	for len(p.sources) > 0 {
		m, ok, err := p.match()
		if err != nil {
			return dst, 0, err
		}
		if !ok {
			continue
		}
		dst = append(dst, m)
		if bytes += entryBytes + len(m.Body) + len(m.Publisher); bytes >= maxBytes && len(p.sources) > 0 {
			return dst, m.Position, nil
		}
	}
	return dst, p.upTo, nil
}

// match takes the nearest message from its sources. It is not ok if its body was trimmed.
func (p *page) match() (m engine.Match, ok bool, err error) {
	m.Position = p.sources[0].position()
	inline := p.sources[0].ahead[p.sources[0].next].inline
	for len(p.sources) > 0 && p.sources[0].position() == m.Position {
		c := p.sources[0]
		m.Filters = append(m.Filters, c.filter)
		if c.next++; c.next == len(c.ahead) {
			if err := p.fill(c); err != nil {
				return m, false, err
			}
		}
		if len(c.ahead) == 0 {
			heap.Pop(p)
		} else {
			heap.Fix(p, 0)
		}
	}
	if inline != nil {
		return m, true, decodeEntry(inline, &m.Entry)
	}
	ok, err = get(p.reader, key2(nil, kindBody, p.organization, uint64(m.Position)), func(v []byte) error {
		return decodeEntry(clone(v), &m.Entry)
	})
	return m, ok, err
}

// Backlog tells how many messages, and bytes of bodies, a filter has behind a position: a subtraction of running counts,
// whatever their number.
func (s *Store) Backlog(organization uint64, filter engine.Filter, after engine.Position) (messages, bytes uint64, err error) {
	err = s.read(func(r pebble.Reader) error {
		cut, err := trimOf(r, organization, filter)
		if err != nil {
			return err
		}
		from := max(after, cut)
		if from == ^engine.Position(0) {
			return nil
		}
		iter, err := r.NewIter(&pebble.IterOptions{
			LowerBound: keyIndex(nil, organization, filter, from+1), UpperBound: keyIndex(nil, organization, filter+1, 0),
		})
		if err != nil {
			return err
		}
		var first, last indexEntry
		if iter.First() {
			first, err = decodeIndexEntry(iter.Value())
			if err == nil && iter.Last() {
				last, err = decodeIndexEntry(iter.Value())
			}
			messages, bytes = last.count-first.count+1, last.bytes-first.bytes+first.size
		}
		if closed := iter.Close(); err == nil {
			err = closed
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return messages, bytes, nil
}
