package api

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"cloudsignal/internal/fault"
)

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI is the document of every operation, OpenAPI 3.1 in YAML. It is not to be changed.
func OpenAPI() []byte { return openAPI }

const version = "2.0.0" // of the API, which is not the program's

// What huma keeps as settings of the whole process: fields have the names in the document and no others, and a list is a list,
// never null.
func init() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
}

// description is what the document says before there are operations, and how huma is to work.
func (a *API) description() huma.Config {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	schemas.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[Problem]())
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "CloudSignal", Version: version, License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
				Description: "Organizations with their users, keys, tokens and rules, live. Errors are problem documents (RFC 9457). " +
					"Lists have pages: next_cursor of one is cursor of the next.",
			},
			Servers: []*huma.Server{{URL: "/", Description: "This server"}},
			Components: &huma.Components{
				Schemas: schemas, SecuritySchemes: securitySchemes(), Parameters: parameters(), Responses: make(map[string]*huma.Response),
			},
			OnAddOperation: []huma.AddOpFunc{learn},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat: "application/json", RejectUnknownQueryParameters: true,
		Transformers: []huma.Transformer{a.transform},
	}
}

func securitySchemes() map[string]*huma.SecurityScheme {
	return map[string]*huma.SecurityScheme{
		"bearer": {
			Type: "http", Scheme: "bearer",
			Description: "An API key (sk_, pk_, rk_, cs_), a member's session (ses_) or an operator's key (op_). Beside it stand the scopes that a restricted key needs.",
		},
		"secretKey": {Type: "apiKey", In: "header", Name: secretHeader, Description: "The same, in a header of its own."},
	}
}

func parameters() map[string]*huma.Param {
	longest, longestKey := maxOrganization, maxIdempotencyKey
	return map[string]*huma.Param{
		"Organization": {
			Name: organizationHeader, In: "header", Description: "The organization to act in, by id or UUID: for members of several, and for operators.",
			Schema: &huma.Schema{Type: huma.TypeString, MaxLength: &longest, Examples: []any{"org_k7xm4pqr2n5t"}},
		},
		"IdempotencyKey": {
			Name: idempotencyHeader, In: "header",
			Description: "Makes it safe to send a request again: with the same key, path and body the same caller " +
				"gets the first answer again, with the header Idempotent-Replayed: true. With another request the key is refused (422), while the first is " +
				"under way too (409). Answers of status 401, 408, 429, and of 500 and above, are not kept; nor are those above 64 KiB. The others are for " +
				"24 hours, in memory alone because they hold secrets: a restart of the server forgets them, and when there are too many the oldest go.",
			Schema: &huma.Schema{Type: huma.TypeString, Pattern: "^[!-~]{1,255}$", MaxLength: &longestKey, Examples: []any{"7f0c2a4e-5b1d-4c3a-9e8f-6d2b1a0c9e7d"}},
		},
	}
}

// security says which credentials an operation wants, and which scope.
func security(o *operation) []map[string][]string {
	scopes := []string{}
	if o.scope != "" && !o.ours {
		scopes = append(scopes, string(o.scope))
	}
	either := []map[string][]string{{"bearer": scopes}, {"secretKey": scopes}}
	switch o.auth {
	case open:
		return []map[string][]string{{}}
	case optional:
		return append([]map[string][]string{{}}, either...)
	default:
		return either
	}
}

// errorExamples are what the document shows of each status.
var errorExamples = map[int]*Problem{
	http.StatusBadRequest:            newProblem("", fault.Invalid, "the body is not JSON: look at byte 17"),
	http.StatusUnauthorized:          newProblem("", fault.Unauthorized, "credentials are missing: send Authorization: Bearer KEY, or X-Secret-Key: KEY"),
	http.StatusForbidden:             newProblem("", fault.Forbidden, "this needs the scope users:write, which these credentials do not have"),
	http.StatusNotFound:              newProblem("", fault.NotFound, `there is no user "agent-02"`),
	http.StatusConflict:              newProblem("", fault.Conflict, "name: there is already a user with this name"),
	http.StatusRequestEntityTooLarge: newProblem("", codeTooLarge, tooLarge(maxBody)),
	http.StatusRequestTimeout:        newProblem("", codeTimeout, "the body did not arrive in time"),
	http.StatusUnsupportedMediaType:  newProblem("", codeMediaType, needsJSON),
	http.StatusUnprocessableEntity:   newProblem("", fault.Invalid, "rules[2].topic: must not be empty"),
	http.StatusTooManyRequests:       newProblem("", fault.TooManyRequests, "too many requests; wait 1 s"),
	http.StatusInternalServerError:   hidden(""),
	http.StatusServiceUnavailable:    newProblem("", fault.Unavailable, "the server is busy"),
}

// errorExample is an answer of an error as the document shows it.
func errorExample(status int) *Problem {
	p := *errorExamples[status]
	p.RequestID, p.Status, p.Title = "req_k7xm4pqr2n5t", status, http.StatusText(status)
	switch status {
	case http.StatusConflict:
		p.Errors = []ProblemError{{Pointer: "/name", Detail: "there is already a user with this name"}}
	case http.StatusUnprocessableEntity:
		p.Errors = []ProblemError{{Pointer: "/rules/2/topic", Detail: "must not be empty"}}
	}
	return &p
}

// errorResponse is a response of an error, shared by all operations whose errors are problems.
func (a *API) errorResponse(o *operation, status int) *huma.Response {
	schemas := a.huma.OpenAPI().Components.Schemas
	if o.shape != nil {
		example := o.shape(errorExample(status))
		schema := schemas.Schema(reflect.TypeOf(example), true, "")
		return &huma.Response{
			Description: http.StatusText(status), Content: map[string]*huma.MediaType{"application/json": {Schema: schema, Example: example}},
		}
	}
	name := strconv.Itoa(status)
	all := a.huma.OpenAPI().Components.Responses
	if all[name] == nil {
		all[name] = &huma.Response{
			Description: http.StatusText(status),
			Content: map[string]*huma.MediaType{
				problemType: {Schema: schemas.Schema(reflect.TypeFor[Problem](), true, ""), Example: errorExample(status)},
			},
		}
	}
	return &huma.Response{Ref: "#/components/responses/" + name}
}

// finish serves the document.
func (a *API) finish() {
	text, err := json.Marshal(a.huma.OpenAPI())
	if err != nil {
		panic("api: the OpenAPI document: " + err.Error()) // it is made of our own types
	}
	a.json = text
	a.document("/openapi.yaml", "application/yaml", openAPI)
	a.document("/openapi.json", "application/json", text)
}

func (a *API) document(path, contentType string, text []byte) {
	a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		if p := a.limitAddress(&operation{}, w.Header(), callerOf(r.Context())); p != nil {
			a.refuse(w, nil, p)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Write(text) //nolint:errcheck // the client is gone
	})
}
