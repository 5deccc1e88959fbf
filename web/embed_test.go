package web

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func ask(t *testing.T, method string, header http.Header) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, "/try", nil)
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	Try().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHeaders(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp := ask(t, method, nil)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, want 200", method, resp.StatusCode)
		}
		for name, want := range map[string]string{
			"Content-Type":           "text/html; charset=utf-8",
			"X-Content-Type-Options": "nosniff",
			"Referrer-Policy":        "no-referrer",
			"Cache-Control":          "no-cache",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", method, name, got, want)
			}
		}
		switch got := body(t, resp); {
		case method == http.MethodGet && got != string(tryPage):
			t.Errorf("GET: %d bytes that are not the page's %d", len(got), len(tryPage))
		case method == http.MethodHead && got != "":
			t.Errorf("HEAD: a body of %d bytes", len(got))
		}
	}
}

func TestUnchangedPageIsNotSentAgain(t *testing.T) {
	etag := ask(t, http.MethodGet, nil).Header.Get("ETag")
	if etag == "" {
		t.Fatal("no ETag")
	}
	resp := ask(t, http.MethodGet, http.Header{"If-None-Match": {etag}})
	if got := body(t, resp); resp.StatusCode != http.StatusNotModified || got != "" {
		t.Errorf("status %d and %d bytes, want 304 and none", resp.StatusCode, len(got))
	}
}

func TestMethods(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "get", "BREW"} {
		resp := ask(t, method, nil)
		if got := resp.Header.Get("Allow"); resp.StatusCode != http.StatusMethodNotAllowed || got != "GET, HEAD" {
			t.Errorf("%s: status %d, Allow %q; want 405 and \"GET, HEAD\"", method, resp.StatusCode, got)
		}
		if strings.Contains(body(t, resp), "<script") {
			t.Errorf("%s: answered with the page", method)
		}
	}
}

// element finds the inline element by the rules of HTML, with attributes and in any case, unlike the code under test.
func element(t *testing.T, page, name string) string {
	t.Helper()
	if n := len(regexp.MustCompile(`(?i)<`+name+`[\s/>]`).FindAllString(markup(page), -1)); n != 1 {
		t.Fatalf("the page has %d <%s> elements, want 1", n, name)
	}
	found := regexp.MustCompile(`(?is)<` + name + `>(.*?)</` + name + `\s*>`).FindStringSubmatch(page)
	if found == nil {
		t.Fatalf("the page has no <%s> without attributes", name)
	}
	return found[1]
}

// markup is the page without what its script and style hold.
func markup(page string) string {
	for _, name := range []string{"script", "style"} {
		page = regexp.MustCompile(`(?is)(<`+name+`[^>]*>).*?(</`+name+`\s*>)`).ReplaceAllString(page, "$1$2")
	}
	return page
}

func TestPolicy(t *testing.T) {
	resp := ask(t, http.MethodGet, nil)
	page := body(t, resp)
	hash := func(name string) string {
		sum := sha256.Sum256([]byte(element(t, page, name)))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	want := "default-src 'none'; script-src " + hash("script") + "; style-src " + hash("style") +
		"; connect-src 'self' wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := resp.Header["Content-Security-Policy"]; len(got) != 1 || got[0] != want {
		t.Errorf("Content-Security-Policy\n got %q\nwant %q", got, want)
	}
}

func TestNothingIsLoadedFromElsewhere(t *testing.T) {
	page := string(tryPage)
	html, style, script := markup(page), element(t, page, "style"), element(t, page, "script")
	for name, where := range map[string]string{"markup": html, "style": style} {
		if found := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9]`).FindString(strings.ReplaceAll(where, "wss://localhost", "")); found != "" {
			t.Errorf("the %s holds an address: %q", name, found)
		}
		if found := regexp.MustCompile(`(?i)url\(|@import`).FindString(where); found != "" {
			t.Errorf("the %s loads something: %q", name, found)
		}
	}
	// The policy forbids these in the browser; here the cause would be told.
	if found := regexp.MustCompile(`(?i)\s(src|srcset|href|action|style|on[a-z]+)\s*=`).FindString(html); found != "" {
		t.Errorf("the markup has the attribute %q", found)
	}
	if found := regexp.MustCompile(`(?i)\b(src|href)\s*=\s*["'` + "`" + `]\s*(https?:)?//|@import|url\(\s*["']?https?:`).FindString(script); found != "" {
		t.Errorf("the script loads something: %q", found)
	}
	for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "localStorage.setItem", "sessionStorage"} {
		if strings.Contains(script, forbidden) {
			t.Errorf("the script holds %q", forbidden)
		}
	}
}

// The tests that drive the page in a browser find these.
func TestElementIDs(t *testing.T) {
	html := markup(string(tryPage))
	for _, id := range []string{
		"url", "username", "password", "connect", "disconnect", "status", "filter", "subscribe", "topic", "message", "qos", "send", "log", "error",
	} {
		if n := strings.Count(html, ` id="`+id+`"`); n != 1 {
			t.Errorf("%d elements have the id %s, want 1", n, id)
		}
	}
	for _, label := range regexp.MustCompile(` (?:for|aria-labelledby|aria-describedby)="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if !strings.Contains(html, ` id="`+label[1]+`"`) {
			t.Errorf("a label refers to %q, which is not there", label[1])
		}
	}
}

func TestInlineHashRefusesOtherPages(t *testing.T) {
	for name, page := range map[string]string{
		"none":           "<p>",
		"not closed":     "<script>a",
		"two":            "<script>a</script><script>b</script>",
		"two, one a src": "<script>a</script><script src=x></script>",
		"with attribute": "<script async>a</script>",
		"nested":         "<script>a<script>b</script>",
		"src first":      "<script src=x></script><script>a</script>",
	} {
		if hash, err := inlineHash([]byte(page), "script"); err == nil {
			t.Errorf("%s: accepted with %s", name, hash)
		}
	}
	// printf a | openssl sha256 -binary | base64
	const want = "sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="
	if got, err := inlineHash([]byte("<p><script>a</script>"), "script"); err != nil || got != want {
		t.Errorf("got %q and error %v, want %q", got, err, want)
	}
}
