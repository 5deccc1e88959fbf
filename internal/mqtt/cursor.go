package mqtt

import (
	"bytes"
	"unicode/utf8"
)

// cursor reads fields off the front of a body. The first failure sticks; what is read after it is zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

func (c *cursor) byte(field string) byte {
	if len(c.b) < 1 {
		c.short(field)
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) uint16(field string) uint16 {
	if len(c.b) < 2 {
		c.short(field)
		return 0
	}
	v := uint16(c.b[0])<<8 | uint16(c.b[1])
	c.b = c.b[2:]
	return v
}

func (c *cursor) uint32(field string) uint32 {
	if len(c.b) < 4 {
		c.short(field)
		return 0
	}
	v := uint32(c.b[0])<<24 | uint32(c.b[1])<<16 | uint32(c.b[2])<<8 | uint32(c.b[3])
	c.b = c.b[4:]
	return v
}

func (c *cursor) varint(field string) int {
	v, n, ok := varint(c.b)
	if !ok {
		c.fail(malformed(field + " is not a variable byte integer in its shortest form"))
		return 0
	}
	if n == 0 {
		c.short(field)
		return 0
	}
	c.b = c.b[n:]
	return v
}

// binary reads a two byte length and as many bytes (1.5.6).
func (c *cursor) binary(field string) []byte {
	n := int(c.uint16(field))
	if len(c.b) < n {
		c.short(field)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// text reads a UTF-8 string: well-formed, hence without surrogates ([MQTT-1.5.4-1]), and without U+0000
// ([MQTT-1.5.4-2]). A byte order mark stays ([MQTT-1.5.4-3]).
func (c *cursor) text(field string) []byte {
	v := c.binary(field)
	if !utf8.Valid(v) || bytes.IndexByte(v, 0) >= 0 {
		c.fail(malformed(field + " is not valid UTF-8 or has a null character"))
		return nil
	}
	return v
}

// id reads a packet identifier, which is never 0 ([MQTT-2.2.1-3]).
func (c *cursor) id() uint16 {
	v := c.uint16("packet identifier")
	if v == 0 {
		c.fail(malformed("packet identifier 0"))
	}
	return v
}

func (c *cursor) short(field string) { c.fail(malformed("packet ends inside " + field)) }

// end fails if anything is left.
func (c *cursor) end() {
	if len(c.b) > 0 {
		c.fail(malformed("bytes behind the last field"))
	}
}
