package enginetest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"cloudsignal/internal/engine"
)

const (
	pageBytes   = 900 // so small that most dumps need several
	everyFilter = 18  // filters, more than a workload makes
)

// dump is all that a reader tells of an organization, as text. Two readers with the same records have the same text.
func dump(r Reader, organization uint64) (string, error) {
	d := &dumper{r: r, organization: organization}
	d.all()
	return d.b.String(), d.err
}

type dumper struct {
	r            Reader
	organization uint64
	b            strings.Builder
	err          error
}

func (d *dumper) line(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *dumper) check(err error) {
	if d.err == nil {
		d.err = err
	}
}

// entry shortens a body to its length, a sum and its start.
func entry(e *engine.Entry) string {
	sum := 0
	for i, c := range e.Body {
		sum += (i + 1) * int(c)
	}
	return fmt.Sprintf("%d %q qos %d retain %v expires %d, %d bytes %d %.10q", e.Position, e.Publisher, e.QoS, e.Retain, e.Expires, len(e.Body), sum, e.Body)
}

func (d *dumper) all() {
	organizations, err := d.r.Organizations()
	d.check(err)
	head, err := d.r.Head(d.organization)
	d.check(err)
	d.line("live %v head %d", slices.Contains(organizations, d.organization), head)
	var filters []engine.Filter
	d.check(d.r.Filters(d.organization, func(f engine.Filter, text string) error {
		filters = append(filters, f)
		d.line("filter %d %q", f, text)
		return nil
	}))
	d.check(d.r.Sessions(d.organization, func(s engine.Session) error {
		d.owner(s)
		return nil
	}))
	d.check(d.r.Retained(d.organization, func(r engine.Retained) error {
		d.line("retained %q %s", r.Topic, entry(&r.Entry))
		e, ok, err := d.r.RetainedOf(d.organization, r.Topic)
		d.check(err)
		if !ok || entry(&e) != entry(&r.Entry) {
			d.line("but by its topic %v %s", ok, entry(&e))
		}
		return nil
	}))
	due, err := d.r.Due(math.MaxInt64, math.MaxInt)
	d.check(err)
	for _, w := range due {
		if w.Organization == d.organization {
			d.line("due %d owner %d event %d", w.At, w.Owner, w.Event)
		}
	}
	d.log(filters, head)
}

func (d *dumper) owner(s engine.Session) {
	o := d.organization
	d.line("owner %d kind %d %q user %q expiry %d connected %d ends %d state %q", s.Owner, s.Kind, s.ClientID, s.User, s.Expiry, s.Connected, s.EndsAt, s.State)
	again, there, err := d.r.Session(o, s.Owner)
	d.check(err)
	if !there || again.ClientID != s.ClientID {
		d.line("  but alone %v %q", there, again.ClientID)
	}
	found, ok, err := d.r.Lookup(o, s.Kind, s.ClientID)
	d.check(err)
	cursor, err := d.r.Cursor(o, s.Owner)
	d.check(err)
	received, err := d.r.Received(o, s.Owner)
	d.check(err)
	d.line("  found %v %d cursor %d received %v", ok, found, cursor, received)
	subs, err := d.r.Subscriptions(o, s.Owner)
	d.check(err)
	for _, sub := range subs {
		d.line("  subscription %q filter %d since %d options %q", sub.Text, sub.Filter, sub.Since, sub.Options)
	}
	outgoing, err := d.r.Outgoing(o, s.Owner)
	d.check(err)
	for _, out := range outgoing {
		e, ok, err := d.r.Read(o, s.Owner, out.Position)
		d.check(err)
		d.line("  outgoing %d shared %v filter %d id %d state %d extra %q holds %v %s", out.Position&^engine.Shared, out.Position&engine.Shared != 0, out.Filter, out.ID, out.State, out.Extra, ok, entry(&e))
	}
	will, ok, err := d.r.Will(o, s.Owner)
	d.check(err)
	if ok {
		d.line("  will after %d %s", will.Delay, entry(&will.Entry))
	}
}

func (d *dumper) log(filters []engine.Filter, head engine.Position) {
	for _, f := range filters {
		for _, after := range []engine.Position{0, head / 3, head - min(head, 1), head} {
			messages, bytes, err := d.r.Backlog(d.organization, f, after)
			d.check(err)
			d.line("backlog of %d after %d: %d messages %d bytes", f, after, messages, bytes)
		}
		d.pages([]engine.Filter{f}, 0)
	}
	d.pages(filters[len(filters)/2:], head/2)
	for f := engine.Filter(1); len(filters) < everyFilter; f++ { // those that are gone, too, which have nothing
		if !slices.Contains(filters, f) {
			filters = append(filters, f)
		}
	}
	d.pages(filters, 0)
}

// pages reads to the end, page by page, and checks the bounds of each.
func (d *dumper) pages(filters []engine.Filter, after engine.Position) {
	d.line("log of %v after %d", filters, after)
	for d.err == nil {
		matches, next, err := d.r.Page(d.organization, filters, after, math.MaxUint64, pageBytes, nil)
		d.check(err)
		bytes := 0
		for i := range matches {
			m := &matches[i]
			slices.Sort(m.Filters)
			d.line("  %v %s", m.Filters, entry(&m.Entry))
			if i < len(matches)-1 {
				bytes += len(m.Body)
			}
		}
		if _, model := d.r.(*oracle); !model && bytes > pageBytes {
			d.line("but a page had %d bytes, and another message", bytes)
		}
		if next <= after || len(matches) == 0 {
			return
		}
		after = next
	}
}

// difference is the first line in which two dumps differ.
func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("line %d is %q, want %q", i+1, at(a, i), at(b, i))
		}
	}
	return "no line"
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(the end)"
}
