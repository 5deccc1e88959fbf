package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	defaultAPI = "https://localhost:8443"
	maxAnswer  = 64 << 20 // bytes of one answer
	maxPage    = 1000     // items of a page
	maxPages   = 1 << 20  // of one list

	// A long list may have more pages than the API gives at once: this often and this long each page is waited for.
	maxWaits = 5
	maxWait  = 30 * time.Second
)

// apiFlags say where the API is, as whom to speak to it and how to print what it answers.
type apiFlags struct {
	api, ca, credentials, organization, output string
	count                                      int
	timeout                                    time.Duration
}

// options are what sets one command on the API apart.
type options struct {
	operator  bool     // of the server's operator
	onFirst   bool     // the first argument, if any, is the organization that it is about
	anonymous bool     // needs no key
	list      bool     // prints many
	secret    string   // what it shows once: password, key
	words     words    // what the API's fields are called here
	args      []source // completion of the arguments
}

func (f *apiFlags) register(flags *pflag.FlagSet, o options) {
	flags.StringVar(&f.api, "api", "", "address of the API (CLOUDSIGNAL_API; default "+defaultAPI+")")
	flags.StringVar(&f.ca, "ca", "", "file of the authorities to trust, PEM (CLOUDSIGNAL_CA; default the system's)")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for each answer")
	output := "text or json"
	if o.secret != "" {
		output = "text, json, or secret: the " + o.secret + " alone"
	}
	flags.StringVarP(&f.output, "output", "o", "text", output)
	if o.list {
		flags.IntVarP(&f.count, "count", "n", 0, "end after this many")
	}
	if !o.anonymous {
		flags.StringVar(&f.credentials, "credentials", "", "take the key from this bootstrap.json (CLOUDSIGNAL_CREDENTIALS; or set CLOUDSIGNAL_KEY)")
		flags.StringVar(&f.organization, "organization", "", "which organization, for an operator or a member of several (CLOUDSIGNAL_ORGANIZATION)")
	}
}

func (f *apiFlags) check(o options) error {
	switch {
	case f.output == "secret" && o.secret != "":
	case f.output != "text" && f.output != "json" && o.secret != "":
		return fmt.Errorf("--output %q: want text, json or secret", f.output)
	case f.output != "text" && f.output != "json":
		return fmt.Errorf("--output %q: want text or json", f.output)
	}
	if f.count < 0 {
		return fmt.Errorf("--count %d: must not be negative", f.count)
	}
	if f.timeout <= 0 {
		return fmt.Errorf("--timeout %s: must be more than 0", f.timeout)
	}
	return nil
}

func (f *apiFlags) organizationName() string {
	return cmp.Or(f.organization, os.Getenv(envOrganization))
}

// onAPI completes a command that speaks to the API: run is called with its arguments.
func onAPI(c *cobra.Command, s Streams, o options, run func(ctx context.Context, a *api, args []string) error) *cobra.Command {
	f := &apiFlags{}
	f.register(c.Flags(), o)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.check(o); err != nil {
			return err
		}
		a, err := f.open(s, o, args...)
		if err != nil {
			return err
		}
		return run(c.Context(), a, args)
	}
	f.complete(c, s, o)
	return c
}

// group makes a command that only holds others.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(commands...)
	return c
}

// api is the API as one command speaks to it.
type api struct {
	Streams
	base         string // without / at the end
	http         *http.Client
	key          string
	organization string // whose the request is, if the key does not say
	home         string // whose key it is, if the file with the key says
	output       string
	count        int
	words        words
}

// open makes the API of a command with these arguments.
func (f *apiFlags) open(s Streams, o options, args ...string) (*api, error) {
	base, err := parseAPI(cmp.Or(f.api, os.Getenv(envAPI), defaultAPI))
	if err != nil {
		return nil, err
	}
	secure, err := trust(f.ca)
	if err != nil {
		return nil, err
	}
	a := &api{Streams: s, base: base, output: f.output, count: f.count, words: o.words}
	if !o.anonymous {
		a.organization = f.organizationName()
		about, operator := a.organization, o.operator
		switch {
		case o.onFirst && len(args) > 0:
			about = args[0]
		case o.onFirst: // about one's own, and an operator has none
			operator = false
		}
		if err := f.authorize(a, operator, about); err != nil {
			return nil, err
		}
	}
	a.http = &http.Client{
		Timeout:       f.timeout,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a key goes nowhere else
	}
	return a, nil
}

func parseAPI(address string) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil: // its text has the address, which may have a password in it
		return "", errors.New("--api: this is not an address; give one such as " + defaultAPI)
	case u.User != nil:
		return "", errors.New("--api: the address has a user name or password in it; keys come from " + envKey + " or --credentials")
	case u.Scheme != "https" || u.Host == "":
		return "", fmt.Errorf("--api %q: give an address such as %s", u, defaultAPI)
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("--api: the address must have no query and no fragment")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// authorize finds the key: --credentials, CLOUDSIGNAL_KEY, CLOUDSIGNAL_CREDENTIALS, in this order; about is the
// organization that the command is about.
func (f *apiFlags) authorize(a *api, operator bool, about string) (err error) {
	name, file := "--credentials", f.credentials
	if file == "" {
		if a.key, err = environmentKey(); a.key != "" || err != nil {
			return err
		}
		name, file = envCredentials, os.Getenv(envCredentials)
	}
	if file == "" {
		return fmt.Errorf("no credentials: set %s to an API key, or give the file of the server's first start with --credentials DATA/bootstrap.json", envKey)
	}
	b, err := readBootstrap(name, file)
	if err != nil {
		return err
	}
	if a.key = b.key(operator, about); a.key == "" {
		return fmt.Errorf("%s: %s holds no key", name, file)
	}
	if a.key == b.SecretKey {
		a.home = b.Organization
	}
	return nil
}

// route puts a path together of segments that may hold anything.
func route(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		if s == "." || s == ".." { // they would be taken for directories
			s = strings.ReplaceAll(s, ".", "%2E")
		} else {
			s = url.PathEscape(s)
		}
		b.WriteString(s)
	}
	return b.String()
}

// do sends a request and returns the JSON of its answer, nil if there is none. What the API refuses is a *problem.
func (a *api) do(ctx context.Context, method, path string, query url.Values, body any) (json.RawMessage, error) {
	r, err := a.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, a.unreachable(err)
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, a.unreachable(err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("the answer of %s %w", a.base, errTooLong)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, a.refused(answer, text)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, nil
	case !json.Valid(text):
		return nil, fmt.Errorf("the answer of %s is not JSON: is this the address of the API?", a.base)
	}
	return text, nil
}

func (a *api) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	target := a.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, fmt.Errorf("--api: %w", err)
	}
	r.Header.Set("User-Agent", "cloudsignal")
	r.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.key != "" {
		r.Header.Set("Authorization", "Bearer "+a.key)
	}
	if a.organization != "" {
		r.Header.Set("X-Organization", a.organization)
	}
	return r, nil
}

// unreachable is an error of the connection, without the address's query, which is nobody's business.
func (a *api) unreachable(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		if of.Timeout() {
			return fmt.Errorf("%s: no answer within %s", a.base, a.http.Timeout)
		}
		err = of.Err
	}
	return fmt.Errorf("%s: %w", a.base, trusted(err))
}

var errTooLong = fmt.Errorf("has more than %d bytes", maxAnswer)

// page is one page of a list.
type page struct {
	Data []json.RawMessage `json:"data"`
	Next string            `json:"next_cursor"`
}

// each goes through all pages of a list, up to a.count items. Items may be large, as clients choose their identifiers: then it
// asks for fewer at once.
func (a *api) each(ctx context.Context, path string, query url.Values) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		q := url.Values{}
		for name, values := range query {
			q[name] = values
		}
		left, most := a.count, maxPage
		for n := 0; ; n++ {
			size := most
			if a.count > 0 {
				size = min(size, left)
			}
			q.Set("limit", strconv.Itoa(size))
			p, err := a.page(ctx, path, q)
			if errors.Is(err, errTooLong) && size > 1 {
				most = max(1, size/8)
				continue
			}
			if err == nil && p.Next != "" && (p.Next == q.Get("cursor") || n == maxPages) {
				err = fmt.Errorf("the list of %s does not end", a.base)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if a.count > 0 {
				p.Data = p.Data[:min(len(p.Data), left)]
				left -= len(p.Data)
			}
			if !yield(p.Data, nil) || p.Next == "" || a.count > 0 && left == 0 {
				return
			}
			q.Set("cursor", p.Next)
		}
	}
}

func (a *api) page(ctx context.Context, path string, query url.Values) (p page, err error) {
	var text json.RawMessage
	for n := 0; ; n++ {
		text, err = a.do(ctx, http.MethodGet, path, query, nil)
		var refused *problem
		if err == nil || n == maxWaits || !errors.As(err, &refused) || refused.status != http.StatusTooManyRequests || refused.again > maxWait {
			break
		}
		t := time.NewTimer(max(refused.again, time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return p, ctx.Err()
		}
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("the answer of %s is not a list: is this the address of the API?", a.base)
	}
	return p, nil
}

// ownOrganization asks whose the key is.
func (a *api) ownOrganization(ctx context.Context) (string, error) {
	if id := cmp.Or(a.organization, a.home); id != "" {
		return id, nil
	}
	text, err := a.do(ctx, http.MethodGet, "/v2/me", nil, nil)
	if err != nil {
		return "", err
	}
	me, err := decode[who](text)
	if err != nil {
		return "", err
	}
	if me.Organization == "" {
		return "", errors.New("which organization? give --organization")
	}
	a.home = me.Organization
	return a.home, nil
}

// userName takes NAME, or NAME@ORGANIZATION as it stands in the credentials of a client.
func (a *api) userName(ctx context.Context, arg string) (string, error) {
	at := strings.LastIndexByte(arg, '@')
	if at < 0 {
		return given("NAME", arg)
	}
	own, err := a.ownOrganization(ctx)
	if err != nil {
		return "", err
	}
	if arg[at+1:] != own {
		return "", fmt.Errorf("%s is not of organization %s", harmless(arg), harmless(own))
	}
	return given("NAME", arg[:at])
}

// given refuses an empty argument: in a path it would stand for something else.
func given(name, arg string) (string, error) {
	if arg == "" {
		return "", errors.New(name + " must not be empty")
	}
	return arg, nil
}

// decode reads an answer. Fields that are not known here are of a newer API.
func decode[T any](text json.RawMessage) (v T, err error) {
	if err := json.Unmarshal(text, &v); err != nil {
		return v, fmt.Errorf("the answer has another form than this version knows: %w", err)
	}
	return v, nil
}

// words are what fields of the API are called on the command line: display_name is --display-name.
type words map[string]string

// of is the word for a JSON pointer (RFC 6901), or for a parameter.
func (w words) of(pointer string) string {
	segments := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	var b strings.Builder
	for i, s := range segments {
		s = strings.NewReplacer("~1", "/", "~0", "~").Replace(s)
		n, err := strconv.Atoi(s)
		switch {
		case err == nil:
			fmt.Fprintf(&b, " no. %d", n+1)
		case i > 0:
			b.WriteString(": " + s)
		default:
			b.WriteString(cmp.Or(w[s], s))
		}
	}
	return b.String()
}

// problem is a refusal of the API (RFC 9457); the token service has its own form.
type problem struct {
	Title       string         `json:"title"`
	Detail      string         `json:"detail"`
	Code        string         `json:"code"`
	RequestID   string         `json:"request_id"`
	Errors      []problemError `json:"errors"`
	Description string         `json:"error_description"`
	Message     string         `json:"message"`

	status int
	again  time.Duration // when to try again; 0: not said
	words  words
}

// problemError is one value that the API finds wrong.
type problemError struct {
	Pointer   string `json:"pointer,omitempty"`
	Parameter string `json:"parameter,omitempty"`
	In        string `json:"in,omitempty"`
	Detail    string `json:"detail"`
}

func (a *api) refused(answer *http.Response, text []byte) error {
	p := &problem{}
	if json.Unmarshal(text, p) != nil {
		p = &problem{} // an answer of something in between, such as a proxy
	}
	p.status, p.words = answer.StatusCode, a.words
	p.RequestID = cmp.Or(p.RequestID, answer.Header.Get("X-Request-Id"))
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		p.again = time.Duration(seconds) * time.Second
	}
	if 300 <= p.status && p.status <= 399 {
		p.Detail = "the answer leads elsewhere: is this the address of the API?"
	}
	return p
}

// Error is the detail, by the words of the command line, and the request's id for the operator's log.
func (p *problem) Error() string {
	var details []string
	for _, e := range p.Errors {
		detail := cmp.Or(e.Detail, p.Detail)
		if at := p.words.of(cmp.Or(e.Pointer, e.Parameter)); at != "" {
			detail = at + ": " + detail
		}
		if !slices.Contains(details, detail) {
			details = append(details, detail)
		}
	}
	s := strings.Join(details, "; ")
	s = cmp.Or(s, p.Detail, p.Description, p.Message, p.Title, fmt.Sprintf("the API answered %d %s", p.status, http.StatusText(p.status)))
	if p.again > 0 {
		s += "; try again in " + p.again.String()
	}
	if p.RequestID != "" {
		s += " (request " + p.RequestID + ")"
	}
	return harmless(s)
}
