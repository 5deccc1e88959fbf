package transport

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it; nothing is protected by it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// This is the server's side of RFC 6455 and no more: MQTT needs no messages, only their bytes in order (a message may
// hold several packets or part of one [MQTT-6.0.0-2]), so a frame's payload is unmasked where it was read and fed at
// once. No memory is ever taken for a length that a client announced: libraries that deliver whole messages take it all
// when the frame's header comes, and their cap cannot change at log-in.

const (
	upgradeBytes = 8 << 10 // the HTTP request's line and headers
	maxFrame     = 1 << 20 // a longer Write becomes several messages

	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	maxControl = 125 // RFC 6455, 5.5
	maxHeader  = 10  // of a frame that is not masked

	closeNormal      = 1000
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeInvalid     = 1007
	closeTooBig      = 1009
)

// closing is why a WebSocket ends: the code for the close frame, and the reason; io.EOF if the client closed it.
type closing struct {
	code uint16
	err  error
}

// text is the reason in the close frame: what the client did wrong, nothing if it did not.
func (c *closing) text() string {
	if c.err == io.EOF { //nolint:errorlint // bufio and crypto/tls never wrap it
		return ""
	}
	return c.err.Error()
}

func violation(code uint16, format string, args ...any) *closing {
	return &closing{code, fmt.Errorf("WebSocket: "+format, args...)}
}

// frames is the state of reading a client's frames, which may be cut anywhere.
type frames struct {
	head   [14]byte
	have   int  // bytes of head that have come
	want   int  // bytes of head needed for the next step
	step   step // what want is for
	op     byte
	opened bool   // a fragmented message is not complete
	left   uint64 // payload of this frame still to come
	size   uint64 // payload announced for this message
	key    uint32 // the mask, turned to where left begins

	control []byte // payload of a control frame so far; at most maxControl
	ping    []byte // payload of the latest ping, not nil: it wants an answer

	// single makes decode return after each data frame, what is behind it in rest: before log-in, for the next frame's
	// limit may depend on what is in this one.
	single bool
	rest   []byte
}

type step uint8

const (
	stepStart step = iota
	stepFlags
	stepLength
	stepKey
	stepPayload
)

// decode takes what was read, in place, and returns the payload of the data frames in it, which is at p's start. Once
// it has returned a closing it must not be called any more.
func (f *frames) decode(p []byte, limit int) ([]byte, *closing) {
	in, out := p, 0
	for {
		if f.step == stepStart {
			f.have, f.want, f.step = 0, 2, stepFlags
		}
		if f.step < stepPayload {
			n := copy(f.head[f.have:f.want], in)
			f.have += n
			in = in[n:]
			if f.have < f.want {
				return p[:out], nil
			}
			if c := f.header(uint64(limit)); c != nil {
				return p[:out], c
			}
			continue
		}
		n := min(uint64(len(in)), f.left)
		f.key = unmask(in[:n], f.key)
		if f.op < opClose {
			out += copy(p[out:], in[:n])
		} else {
			f.control = append(f.control, in[:n]...)
		}
		in = in[n:]
		if f.left -= n; f.left > 0 {
			return p[:out], nil
		}
		f.step = stepStart
		data := f.op < opClose
		if c := f.complete(); c != nil {
			return p[:out], c
		}
		if f.single && data && len(in) > 0 {
			f.rest = in
			return p[:out], nil
		}
	}
}

// header takes the next step in the frame's header, of which as many bytes as wanted have come.
func (f *frames) header(limit uint64) *closing {
	switch f.step {
	case stepFlags:
		if c := f.flags(); c != nil {
			return c
		}
		f.step = stepLength
		switch f.head[1] & 0x7f {
		case 126:
			f.want += 2
		case 127:
			f.want += 8
		}
	case stepLength:
		switch f.want {
		case 2:
			f.left = uint64(f.head[1] & 0x7f)
		case 4:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
		case 10:
			f.left = binary.BigEndian.Uint64(f.head[2:])
		}
		if f.op < opClose {
			if f.size > limit || f.left > limit-f.size {
				return violation(closeTooBig, "a message of more than %d bytes", limit)
			}
			f.size += f.left
		}
		f.want += 4
		f.step = stepKey
	case stepKey:
		f.key = binary.LittleEndian.Uint32(f.head[f.want-4:])
		f.step = stepPayload
	}
	return nil
}

// flags checks a frame's first two bytes.
func (f *frames) flags() *closing {
	fin, length := f.head[0]&0x80 != 0, f.head[1]&0x7f
	f.op = f.head[0] & 0x0f
	switch {
	case f.head[0]&0x70 != 0:
		return violation(closeProtocol, "a reserved bit is set, no extension was agreed")
	case f.head[1]&0x80 == 0:
		return violation(closeProtocol, "a frame is not masked")
	case f.op >= opClose:
		if f.op > opPong {
			return violation(closeProtocol, "unknown opcode %#x", f.op)
		}
		if !fin || length > maxControl {
			return violation(closeProtocol, "a control frame is fragmented or longer than %d bytes", maxControl)
		}
		return nil
	case f.op == opText:
		return violation(closeUnsupported, "a text frame; MQTT uses binary frames only") // [MQTT-6.0.0-1]
	case f.op > opBinary:
		return violation(closeProtocol, "unknown opcode %#x", f.op)
	case f.op == opContinuation && !f.opened:
		return violation(closeProtocol, "a continuation without a beginning")
	case f.op == opBinary && f.opened:
		return violation(closeProtocol, "a new message inside a fragmented one")
	}
	if f.op == opBinary {
		f.size = 0
	}
	f.opened = !fin
	return nil
}

// complete ends a frame whose payload has come.
func (f *frames) complete() *closing {
	p := f.control
	f.control = nil
	switch f.op {
	case opPing:
		if f.ping = p; p == nil {
			f.ping = []byte{}
		}
	case opClose:
		c := &closing{closeNormal, io.EOF}
		switch {
		case len(p) == 0:
		case len(p) == 1 || !validClose(binary.BigEndian.Uint16(p)):
			c.code = closeProtocol
		case !utf8.Valid(p[2:]):
			c.code = closeInvalid
		default:
			c.code = binary.BigEndian.Uint16(p)
		}
		return c
	}
	return nil
}

// validClose says whether a client may send the code (RFC 6455, 7.4).
func validClose(code uint16) bool {
	switch {
	case code >= 3000 && code < 5000:
		return true
	case code >= 1000 && code <= 1014:
		return code != 1004 && code != 1005 && code != 1006
	}
	return false
}

// unmask applies the key to p and returns it turned for what follows p.
func unmask(p []byte, key uint32) uint32 {
	n := len(p)
	for wide := uint64(key)<<32 | uint64(key); len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
	}
	for i := range p {
		p[i] ^= byte(key >> (8 * (i & 3)))
	}
	return bits.RotateLeft32(key, -8*(n&3))
}

// appendHeader appends the header of an unfragmented frame of n bytes; a server does not mask.
func appendHeader(b []byte, op byte, n int) []byte {
	b = append(b, 0x80|op)
	switch {
	case n <= 125:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

func appendFrame(b []byte, op byte, p []byte) []byte {
	return append(appendHeader(b, op, len(p)), p...)
}

func closeFrame(code uint16, text string) []byte {
	p := binary.BigEndian.AppendUint16(nil, code)
	return appendFrame(nil, opClose, append(p, text[:min(len(text), maxControl-2)]...))
}

// header writes the header of a binary message of n bytes. It is made in the buffer: one of its own would escape.
func (g *gather) header(n int) {
	if len(g.buf)-g.n < maxHeader {
		g.flush()
	}
	g.n += len(appendHeader(g.buf[g.n:g.n], opBinary, n))
}

// messages writes bufs as binary messages of at most maxFrame bytes.
func (g *gather) messages(bufs net.Buffers) {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	left := 0 // of the message whose header is written
	for _, b := range bufs {
		for len(b) > 0 {
			if left == 0 {
				left = min(total, maxFrame)
				total -= left
				g.header(left)
			}
			n := min(left, len(b))
			g.write(b[:n])
			b = b[n:]
			left -= n
		}
	}
}

// upgrade reads the HTTP request and answers it. It returns what the client sent after the request. A deadline is set;
// the request's size is bounded.
func (c *conn) upgrade() ([]byte, error) {
	bounded := &io.LimitedReader{R: c.net, N: upgradeBytes}
	r := bufio.NewReader(bounded)
	req, err := http.ReadRequest(r)
	a := answer{}
	switch {
	case err == nil:
		a = judge(req)
	case bounded.N <= 0:
		a = refusal(FailedHTTP, http.StatusRequestHeaderFieldsTooLarge, "the request's headers are longer than %d bytes", upgradeBytes)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(net.Error)):
		return nil, err
	default:
		a = refusal(FailedHTTP, http.StatusBadRequest, "this is not an HTTP request")
	}
	if _, err := c.net.Write(a.bytes()); err != nil {
		return nil, err
	}
	if a.status != http.StatusSwitchingProtocols {
		return nil, &refusedError{a.why, fmt.Errorf("refused with %d: %s", a.status, a.text)}
	}
	return r.Peek(r.Buffered())
}

// answer is the answer to an HTTP request.
type answer struct {
	status           int
	why              Failure // it is refused
	text             string  // the same, for the client
	accept, protocol string  // the headers of an agreed upgrade
}

func refusal(why Failure, status int, format string, args ...any) answer {
	return answer{status: status, why: why, text: fmt.Sprintf(format, args...)}
}

// judge decides about a request. Any Origin is welcome: a browser sends no credential by itself, the page must have it.
func judge(r *http.Request) answer {
	key := r.Header.Get("Sec-Websocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	offered := tokens(r.Header.Values("Sec-Websocket-Protocol"))
	protocol := ""
	switch { // [MQTT-6.0.0-4]; "mqttv3.1" is what clients before the standard offer
	case slices.Contains(offered, "mqtt"):
		protocol = "mqtt"
	case slices.Contains(offered, "mqttv3.1"):
		protocol = "mqttv3.1"
	}
	switch {
	case r.URL.Path != "/" && r.URL.Path != "/mqtt":
		return refusal(FailedPath, http.StatusNotFound, "nothing is here; MQTT over WebSocket is at / and /mqtt")
	case r.Method != http.MethodGet:
		return refusal(FailedUpgrade, http.StatusMethodNotAllowed, "a WebSocket begins with GET")
	case !r.ProtoAtLeast(1, 1) || !hasToken(r.Header.Values("Connection"), "upgrade") ||
		!hasToken(r.Header.Values("Upgrade"), "websocket"):
		return refusal(FailedUpgrade, http.StatusUpgradeRequired,
			"this is an MQTT server, not a web site; connect with an MQTT client over WebSocket (path / or /mqtt, subprotocol mqtt)")
	case r.Header.Get("Sec-Websocket-Version") != "13":
		return refusal(FailedUpgrade, http.StatusUpgradeRequired, "Sec-WebSocket-Version must be 13")
	case err != nil || len(nonce) != 16:
		return refusal(FailedUpgrade, http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64")
	case protocol == "": // [MQTT-6.0.0-3]
		return refusal(FailedSubprotocol, http.StatusBadRequest, "Sec-WebSocket-Protocol must offer the subprotocol mqtt")
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455, 4.2.2
	return answer{
		status:   http.StatusSwitchingProtocols,
		accept:   base64.StdEncoding.EncodeToString(sum[:]),
		protocol: protocol,
	}
}

func (a answer) bytes() []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	if a.status == http.StatusSwitchingProtocols {
		return fmt.Appendf(b, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"+
			"Sec-WebSocket-Protocol: %s\r\n\r\n", a.accept, a.protocol)
	}
	switch a.status {
	case http.StatusUpgradeRequired: // RFC 9110, 15.5.22; RFC 6455, 4.4
		b = append(b, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"...)
	case http.StatusMethodNotAllowed:
		b = append(b, "Allow: GET\r\n"...)
	}
	return fmt.Appendf(b, "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s\n",
		len(a.text)+1, a.text)
}

// tokens splits the values of a header that is a list.
func tokens(values []string) []string {
	var all []string
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			all = append(all, strings.TrimSpace(t))
		}
	}
	return all
}

func hasToken(values []string, want string) bool {
	return slices.ContainsFunc(tokens(values), func(t string) bool { return strings.EqualFold(t, want) })
}
