package api

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudsignal/internal/access"
)

// maxBody bounds a body, in bytes, unless the operation says otherwise. 1000 rules of ordinary length have room in it.
const maxBody = 256 << 10

// auth says whether an operation wants credentials.
type auth uint8

const (
	required auth = iota // else it is a 401
	optional             // they count if there are any
	open                 // they are not looked at
)

// operation declares one route: everything that the middleware does for it and that the OpenAPI document says about it but the
// shapes of what goes in and out, which are route's types.
type operation struct {
	id      string // of the operation in the document: list-users
	method  string
	path    string
	tag     string
	summary string
	text    string // more than the summary, if there is more to say

	auth   auth
	scope  access.Scope // that the caller needs; empty: any credentials do
	status int          // of success; 0: 200, or 204 without a body
	body   int64        // greatest body in bytes; 0: maxBody
	server bool         // it is about no one organization: scope is a key's alone, and control judges the others
	ours   bool         // for the server's operators: control tells others so, whatever their scopes
	above  bool         // an operator who names no organization is answered about the server
	also   []int        // statuses of errors beside the usual ones
	bucket *buckets     // which limit counts it; nil: callers, or addresses if nobody has shown credentials
	cors   bool         // pages of any origin may call it
	shape  func(*Problem) any

	takesBody  bool              // it has a type for one
	parameters map[string]string // name to where it is
	fields     []string          // of the body
}

// route registers an operation. I and O are as huma wants them: parameters and Body go in, headers and Body come out.
func route[I, O any](a *API, o operation, f func(context.Context, *I) (*O, error)) {
	seen(reflect.TypeFor[I]())
	seen(reflect.TypeFor[O]())
	huma.Register(a.huma, a.declare(&o), func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			p := a.problem(ctx, &o, err)
			maps.Copy(callerOf(ctx).header, p.header)
			return nil, p
		}
		return out, nil
	})
	if o.cors {
		a.mux.HandleFunc("OPTIONS "+o.path, func(w http.ResponseWriter, _ *http.Request) {
			allowOrigins(w.Header())
			w.Header().Set("Access-Control-Allow-Methods", o.method)
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, X-Organization, X-Request-Id, X-Secret-Key")
			w.Header().Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
		})
	}
}

// seen panics if a type embeds one without a name outside: huma would pass over its fields, parameters and all.
func seen(t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && !f.IsExported() {
			panic("api: " + t.String() + " embeds " + f.Type.String() + ", which huma does not see")
		}
		if f.Anonymous || f.Name == "Body" {
			seen(f.Type)
		}
	}
}

// nothing is the input of operations without parameters, and the output of those that answer 204.
type nothing struct{}

const metadataKey = "operation"

// operationOf is what was declared of the operation that a request reached.
func operationOf(ctx huma.Context) *operation { return declared(ctx.Operation()) }

func declared(op *huma.Operation) *operation {
	o, _ := op.Metadata[metadataKey].(*operation)
	return o
}

// declare makes huma's form of an operation.
func (a *API) declare(o *operation) huma.Operation {
	if o.body == 0 {
		o.body = maxBody
	}
	a.operations[o.method+" "+o.path] = o
	op := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Tags: []string{o.tag}, Summary: o.summary, Description: o.text,
		DefaultStatus: o.status, MaxBodyBytes: o.body + 1, BodyReadTimeout: bodyTimeout,
		Metadata: map[string]any{metadataKey: o}, Responses: a.responses(o), Security: security(o),
	}
	if o.cors {
		op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
			_, w := humago.Unwrap(ctx)
			allowOrigins(w.Header())
			next(ctx)
		})
	}
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if p := a.admit(o, w, r); p != nil {
			a.refuse(w, o, p)
			return
		}
		if !o.hasBody() {
			next(ctx)
			return
		}
		body, p := a.read(o, w, r)
		if p != nil {
			a.refuse(w, o, p)
			return
		}
		if o.repeatable() {
			a.once(o, w, r, body, func() { next(ctx) })
			return
		}
		next(ctx)
	})
	if o.repeatable() {
		op.Parameters = append(op.Parameters, &huma.Param{Ref: "#/components/parameters/IdempotencyKey"})
	}
	if o.auth != open {
		op.Parameters = append(op.Parameters, &huma.Param{Ref: "#/components/parameters/Organization"})
	}
	return op
}

// repeatable says whether an operation takes an Idempotency-Key: one that makes something, whose caller is known before its body is
// read. Where credentials are in the body, a kept answer would stand for credentials that are not valid any more.
func (o *operation) repeatable() bool { return o.method == http.MethodPost && o.auth == required }

// learn remembers what huma has found out about an operation, for the places of errors.
func learn(doc *huma.OpenAPI, op *huma.Operation) {
	o := declared(op)
	o.parameters = map[string]string{organizationHeader: "header", idempotencyHeader: "header"}
	for _, p := range op.Parameters {
		if p.Name != "" {
			o.parameters[p.Name] = p.In
		}
	}
	if op.RequestBody == nil {
		return
	}
	o.takesBody = true
	for _, content := range op.RequestBody.Content {
		s := content.Schema
		for s.Ref != "" {
			s = doc.Components.Schemas.SchemaFromRef(s.Ref)
		}
		for name := range s.Properties {
			o.fields = append(o.fields, name)
		}
	}
	slices.Sort(o.fields)
}

// responses are the errors that an operation may answer with.
func (a *API) responses(o *operation) map[string]*huma.Response {
	statuses := []int{http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable}
	if o.auth != open {
		statuses = append(statuses, http.StatusUnauthorized, http.StatusNotFound)
	}
	if o.scope != "" {
		statuses = append(statuses, http.StatusForbidden)
	}
	statuses = append(statuses, o.also...)
	if o.repeatable() {
		statuses = append(statuses, http.StatusConflict) // of an Idempotency-Key
	}
	if o.hasBody() {
		statuses = append(statuses, http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusRequestTimeout)
	}
	all := make(map[string]*huma.Response, len(statuses)+1)
	for _, s := range statuses {
		all[strconv.Itoa(s)] = a.errorResponse(o, s)
	}
	return all
}

// allowOrigins lets pages of any origin read an answer. There are no cookies that they could ride on.
func allowOrigins(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Idempotent-Replayed")
}
