package api

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudsignal/internal/fault"
)

// What is wrong with a value in a body is said with a pointer to it, whatever its name.
func TestValuesOfBodies(t *testing.T) {
	a, _ := core(t, nil)
	for _, c := range []struct {
		name, body string
		status     int
		wrong      ProblemError
	}{
		{"null", `{"title":null}`, 422, ProblemError{Pointer: "/title", Detail: "must not be null"}},
		{"null where nothing need be", `{"title":"a","kind":null}`, 422, ProblemError{Pointer: "/kind", Detail: "must not be null"}},
		{"null for a number", `{"title":"a","count":null}`, 422, ProblemError{Pointer: "/count", Detail: "must not be null"}},
		{"null in a list", `{"title":"a","rules":[{"topic":"a"},null]}`, 422, ProblemError{Pointer: "/rules/1", Detail: "must not be null"}},
		{"null for all", `null`, 422, ProblemError{Detail: "must not be null"}},
		{"beyond 64 bits", `{"title":"a","free":1e30}`, 422, ProblemError{Pointer: "/free", Detail: "must be written as a whole number, without a point or an exponent"}},
		{"beyond 64 bits in digits", `{"title":"a","free":99999999999999999999}`, 422, ProblemError{Pointer: "/free", Detail: "is too large"}},
		{"beyond all numbers", `{"title":"a","rules":[{"topic":"a"},{"topic":1e400}]}`, 400, ProblemError{Pointer: "/rules/1/topic", Detail: "is too large"}},
		{"a whole number with a point", `{"title":"a","count":1.0}`, 422, ProblemError{Pointer: "/count", Detail: "must be written as a whole number, without a point or an exponent"}},
		{"a whole number with an exponent", `{"title":"a","rules":[{"topic":"a","rank":1},{"topic":"b","rank":1e0}]}`, 422, ProblemError{Pointer: "/rules/1/rank", Detail: "must be written as a whole number, without a point or an exponent"}},
		{"half a character", `{"title":"\ud83d\ude00\\ud800","rules":[{"topic":"\ud800x"}]}`, 400, ProblemError{Pointer: "/rules/0/topic", Detail: "the text has half of a surrogate pair at byte 51 of the body, which is no character"}},
		{"the other half", `{"title":"\udc00"}`, 400, ProblemError{Pointer: "/title", Detail: "the text has half of a surrogate pair at byte 11 of the body, which is no character"}},
		{"a dot in a name", `{"title":"a","a.b":1}`, 422, ProblemError{Pointer: "/a.b", Detail: "there is no such field"}},
		{"brackets in a name", `{"title":"a","a[0].b":1}`, 422, ProblemError{Pointer: "/a[0].b", Detail: "there is no such field"}},
		{"what JSON pointers escape", `{"title":"a","a/b~c":1}`, 422, ProblemError{Pointer: "/a~1b~0c", Detail: "there is no such field"}},
		{"what we escape", `{"title":"a","%2E%00":1}`, 422, ProblemError{Pointer: "/%2E%00", Detail: "there is no such field"}},
		{"an empty name", `{"title":"a","":1}`, 422, ProblemError{Pointer: "/", Detail: "there is no such field"}},
		{"an odd name in a list", `{"title":"a","rules":[{"topic":"a"},{"topic":"a","x.y/[z]":1}]}`, 422, ProblemError{Pointer: "/rules/1/x.y~1[z]", Detail: "there is no such field"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := problemIn(t, ask(a, "POST", "/echo/a", c.body))
			if p.Status != c.status || p.Code != fault.Invalid {
				t.Errorf("%d %s (%s), want %d", p.Status, p.Code, p.Detail, c.status)
			}
			if d := cmp.Diff([]ProblemError{c.wrong}, p.Errors); d != "" {
				t.Error(d)
			}
		})
	}
}

// A body with nothing right in it is answered with a bounded list.
func TestManyMistakes(t *testing.T) {
	a := newAPI(Config{})
	o := operation{id: "echo", method: "POST", path: "/echo/{name}", tag: "test", auth: open}
	route(a, o, func(context.Context, *echo) (*nothing, error) { return nil, nil })
	body := `{"title":"a","rules":[` + strings.Repeat("{},", 20_000) + `{}]}`
	if p := problemIn(t, ask(a, "POST", "/echo/a", body)); p.Status != 422 || len(p.Errors) != maxProblems {
		t.Errorf("%d, %d errors", p.Status, len(p.Errors))
	}
}
