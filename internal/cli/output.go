package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// field is one line of what is printed about one thing.
type field struct {
	name, value string
	secret      bool // shown this once
}

// column is one column of a list.
type column[T any] struct {
	title string
	value func(*T) string
}

// show sends a request and prints the one document of the answer.
func show[T any](ctx context.Context, a *api, method, path string, query url.Values, body any, fields func(*T) []field) error {
	text, err := a.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	return printOne(a, text, fields)
}

func printOne[T any](a *api, text json.RawMessage, fields func(*T) []field) error {
	if len(text) == 0 {
		return nil
	}
	if a.output == "json" {
		return a.printJSON(text)
	}
	v, err := decode[T](text)
	if err != nil {
		return err
	}
	return a.printFields(fields(&v))
}

func (a *api) printFields(fields []field) error {
	if a.output == "secret" {
		for _, f := range fields {
			if f.secret && f.value != "" {
				_, err := fmt.Fprintln(a.Out, harmless(f.value))
				return err
			}
		}
		return errors.New("-o secret: the answer holds no secret")
	}
	t := newTable(a.Out)
	for _, f := range fields {
		if f.value != "" || !f.secret {
			t.row(f.name, f.value)
		}
	}
	return t.end()
}

// remove sends a DELETE, or another request whose answer is nothing.
func (a *api) remove(ctx context.Context, path string, query url.Values) error {
	_, err := a.do(ctx, http.MethodDelete, path, query, nil)
	return err
}

// list prints all pages of a list: as a table, or as one document {"data":[...]} with a line for each item. Only one page
// is in memory.
func list[T any](ctx context.Context, a *api, path string, query url.Values, columns []column[T]) error {
	if a.output == "json" {
		return listJSON(ctx, a, path, query)
	}
	t := newTable(a.Out)
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	first := true
	for items, err := range a.each(ctx, path, query) {
		if err != nil {
			return err
		}
		if first {
			t.row(titles...)
			first = false
		}
		for _, text := range items {
			v, err := decode[T](text)
			if err != nil {
				return errors.Join(t.end(), err)
			}
			values := make([]string, len(columns))
			for i, c := range columns {
				values[i] = c.value(&v)
			}
			t.row(values...)
		}
		if err := t.end(); err != nil { // columns are as wide as their page needs
			return err
		}
	}
	return nil
}

func listJSON(ctx context.Context, a *api, path string, query url.Values) error {
	w := bufio.NewWriter(a.Out)
	write := func(b ...byte) { w.Write(b) } //nolint:errcheck // Flush has the error
	before := `{"data":[`
	for items, err := range a.each(ctx, path, query) {
		if err != nil {
			return err
		}
		for _, text := range items {
			line, err := oneLine(text)
			if err != nil {
				return errors.Join(w.Flush(), err)
			}
			write(append([]byte(before+"\n"), line...)...)
			before = ","
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if before == "," {
		before = "\n"
	}
	write([]byte(before + "]}\n")...)
	return w.Flush()
}

// printJSON writes the API's own document, on one line.
func (a *api) printJSON(text json.RawMessage) error {
	line, err := oneLine(text)
	if err != nil {
		return err
	}
	_, err = a.Out.Write(append(line, '\n'))
	return err
}

// oneLine is a JSON document in a form that does nothing to a terminal: the same values, on one line.
func oneLine(text json.RawMessage) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, err
	}
	compact := b.Bytes()
	if !bytes.ContainsFunc(compact, hidden) {
		return compact, nil
	}
	out := make([]byte, 0, len(compact)+64)
	for len(compact) > 0 {
		r, size := utf8.DecodeRune(compact)
		switch {
		case !hidden(r) || r == utf8.RuneError && size == 1: // a byte that is no UTF-8 stays as it is
			out = append(out, compact[:size]...)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		compact = compact[size:]
	}
	return out, nil
}

// hidden tells of a character that a terminal may take for an order. In a JSON document they are within strings only.
func hidden(r rune) bool { return !unicode.IsPrint(r) }

// table aligns columns and lets nothing through that a terminal would act upon.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) *table {
	return &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

func (t *table) row(values ...string) {
	for i, v := range values {
		if v == "" {
			v = "-"
		}
		if i > 0 {
			io.WriteString(t.w, "\t") //nolint:errcheck // Flush has the error
		}
		io.WriteString(t.w, harmless(v)) //nolint:errcheck // the same
	}
	io.WriteString(t.w, "\n") //nolint:errcheck // the same
}

func (t *table) end() error { return t.w.Flush() }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// moment is a time of the API as it is printed: to the second, UTC.
func moment(s string) string {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return s
	}
	return t.UTC().Format(time.RFC3339)
}

func number[N ~int | ~int64 | ~uint8 | ~uint32](n N) string { return strconv.FormatInt(int64(n), 10) }

func together(values []string) string { return strings.Join(values, " ") }

// short is the beginning of a text, for a table.
func short(s string, characters int) string {
	n := 0
	for i := range s {
		if n == characters {
			return s[:i] + "..."
		}
		n++
	}
	return s
}
