package api

import (
	"encoding/base64"
	"strings"

	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// maxCursor has room for the longest topic, 4 KiB, in base64.
const maxCursor = 6000

// Page is the part of every list's input that says which part of the list is wanted. It has a name outside because huma
// does not see what is embedded without one.
type Page struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many entries at most."`
	Cursor string `query:"cursor" maxLength:"6000" doc:"next_cursor of the page before."`
}

// list is a page of a list.
type list[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor,omitempty" doc:"For the next page; there is none at the end."`
}

// listed is the answer of every list.
type listed[T any] struct {
	Body list[T]
}

// after is where the page begins: behind the entry with this key. name is the list's, so that a cursor of another list is
// refused.
func (p *Page) after(name string) (string, error) {
	if p.Cursor == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	rest, ok := strings.CutPrefix(string(text), name+"\x00")
	if err != nil || !ok || rest == "" || len(p.Cursor) > maxCursor {
		return "", fault.Field("cursor", "is none that this list gave; begin without one")
	}
	return rest, nil
}

// fetch is how many entries to read for a page: one more tells whether there is another page. A page of the greatest length
// cannot ask for more, and may be followed by an empty one.
func (p *Page) fetch() int { return min(p.Limit+1, control.MaxPage) }

// pageOf makes the answer of the entries that were fetched. key is what the list is ordered by.
func pageOf[E, T any](p *Page, name string, fetched []E, key func(E) string, show func(E) T) *listed[T] {
	more := len(fetched) > p.Limit || len(fetched) == control.MaxPage
	fetched = fetched[:min(len(fetched), p.Limit)]
	out := &listed[T]{Body: list[T]{Data: make([]T, len(fetched))}}
	for i, e := range fetched {
		out.Body.Data[i] = show(e)
	}
	if more {
		out.Body.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(name + "\x00" + key(fetched[len(fetched)-1])))
	}
	return out
}
