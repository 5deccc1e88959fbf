package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What only a real connection has: bodies of no stated length, one answer after the other, an answer that breaks off.
func TestOverConnections(t *testing.T) {
	for _, two := range []bool{false, true} {
		a, log := core(t, nil)
		route(a, operation{id: "half", method: http.MethodGet, path: "/half", tag: "test", auth: open}, func(context.Context, *nothing) (*half, error) {
			return &half{}, nil
		})
		s := httptest.NewUnstartedServer(a)
		s.EnableHTTP2 = two
		s.StartTLS()
		defer s.Close()
		send := func(method, path string, body io.Reader) (int, string, error) {
			r, err := http.NewRequest(method, s.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			w, err := s.Client().Do(r)
			if err != nil {
				return 0, "", err
			}
			defer w.Body.Close()
			if (w.ProtoMajor == 2) != two {
				t.Errorf("it is %s", w.Proto)
			}
			text, err := io.ReadAll(w.Body)
			return w.StatusCode, string(text), err
		}
		for range 3 {
			stream := io.MultiReader(strings.NewReader(`{"title":"`), strings.NewReader(strings.Repeat("a", 700)))
			if status, text, err := send("POST", "/echo/a", stream); err != nil || status != 413 || !strings.Contains(text, "too_large") {
				t.Errorf("a long body of no stated length: %d %s %v", status, text, err)
			}
			if status, text, err := send("POST", "/echo/a", strings.NewReader(`{"title":"a"}`)); err != nil || status != 201 {
				t.Errorf("after it: %d %s %v", status, text, err)
			}
			if status, _, err := send("POST", "/echo/panic", strings.NewReader(`{"title":"a"}`)); err != nil || status != 500 {
				t.Errorf("a bug: %d %v", status, err)
			}
		}
		if _, text, err := send("GET", "/half", nil); err == nil {
			t.Errorf("an answer that broke off looks whole: %q", text)
		}
		if !strings.Contains(log.String(), "half way") {
			t.Errorf("it is not in the log: %s", log)
		}
	}
}

// A body in a chunked coding that is none, or that ends before its end, is the client's mistake.
func TestMalformedBodies(t *testing.T) {
	a, log := core(t, nil)
	s := httptest.NewServer(a)
	defer s.Close()
	for what, body := range map[string]string{
		"no length of a chunk":  "Transfer-Encoding: chunked\r\n\r\nzz\r\n{\"title\":\"a\"}\r\n0\r\n\r\n",
		"a chunk that goes on":  "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"title\":\"a\"}\r\n0\r\n\r\n",
		"the end of the stream": "Transfer-Encoding: chunked\r\n\r\nd\r\n{\"title\":",
		"less than it says":     "Content-Length: 100\r\n\r\n{\"title\":\"a\"}",
	} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST /echo/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+body); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		w, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		text, _ := io.ReadAll(w.Body)
		if w.StatusCode != 400 || !strings.Contains(string(text), `"code":"invalid"`) {
			t.Errorf("%s: %d %s", what, w.StatusCode, text)
		}
	}
	if c := a.Counters(); c.Failed != 0 || log.Len() > 0 {
		t.Errorf("it is taken for a mistake of the server: %+v %s", c, log)
	}
}

type half struct{ Body breaks }

// breaks is an answer that cannot be written.
type breaks struct {
	Text string `json:"text"`
}

func (breaks) MarshalJSON() ([]byte, error) { panic("half way") }
