// Package web holds the pages that the server serves, built by build.mjs and embedded. Each is one file with its script
// and style inline; it loads nothing from anywhere.
package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"
)

//go:embed dist/try.html
var tryPage []byte

// try is the handler of the one page; made at init, so that a page without exactly one script and one style cannot be
// served at all.
var try = mustPage("try.html", tryPage)

// Try serves the page with which a person tries MQTT over WebSocket in a browser, to GET and HEAD, at whichever path it is
// mounted. The page asks for GET /try/config.json on the same origin, which the server answers with {"wss":"wss://HOST:PORT/"},
// the address to suggest; without it the page suggests port 18885 of its own host.
func Try() http.Handler { return try }

// page is an embedded page and the headers that belong to it.
type page struct {
	body   []byte
	etag   string
	policy string
}

// mustPage prepares a page. The page is part of the binary: if it is not as the build makes it, no start is possible.
func mustPage(name string, body []byte) *page {
	script, err := inlineHash(body, "script")
	if err != nil {
		panic(fmt.Sprintf("web/dist/%s: %v", name, err))
	}
	style, err := inlineHash(body, "style")
	if err != nil {
		panic(fmt.Sprintf("web/dist/%s: %v", name, err))
	}
	sum := sha256.Sum256(body)
	return &page{
		body: body,
		etag: `"` + hex.EncodeToString(sum[:16]) + `"`,
		// wss: any server, for the address is the user's to choose.
		policy: "default-src 'none'; script-src '" + script + "'; style-src '" + style + "'; connect-src 'self' wss:; " +
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}
}

// inlineHash is the source expression ("sha256-...") of the page's only inline element of that name.
func inlineHash(body []byte, element string) (string, error) {
	open, end := []byte("<"+element+">"), []byte("</"+element+">")
	before, rest, found := bytes.Cut(body, open)
	content, after, closed := bytes.Cut(rest, end)
	if start := []byte("<" + element); !found || !closed || bytes.Contains(content, open) ||
		bytes.Contains(before, start) || bytes.Contains(after, start) {
		return "", fmt.Errorf("needs exactly one inline <%s>; build it with web/build.mjs", element)
	}
	sum := sha256.Sum256(content)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:]), nil
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this page answers GET and HEAD only", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // kept, but asked for again with its ETag: a new server means a new page at once
	h.Set("ETag", p.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.body))
}
