package mqtt

// MaxRemainingLength is the largest number a variable byte integer holds (1.5.5).
const MaxRemainingLength = 268_435_455

// Header is the fixed header of a packet (2.1).
type Header struct {
	Type   Type
	Flags  uint8 // the low half of the first byte
	Length int   // remaining length: the bytes behind the header
}

// ReadHeader reads the fixed header at the start of b. n is its length, 0 if more bytes are needed. It allocates nothing,
// whatever length is announced; the caller compares Length with its limit before it waits for the body. Errors are
// *Error: a reserved type, QoS 3, a length in more than four bytes or in more bytes than needed ([MQTT-1.5.5-1]).
func ReadHeader(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, nil
	}
	h = Header{Type: Type(b[0] >> 4), Flags: b[0] & 15}
	if h.Type == 0 {
		return h, 0, malformed("packet type 0")
	}
	if h.Type == PUBLISH && h.Flags&6 == 6 {
		return h, 0, malformed("QoS 3") // [MQTT-3.3.1-4]
	}
	length, n, ok := varint(b[1:])
	if !ok {
		return h, 0, malformed("remaining length is not a variable byte integer in its shortest form")
	}
	if n == 0 {
		return h, 0, nil
	}
	h.Length = length
	return h, 1 + n, nil
}

// varint reads a variable byte integer. n == 0 with ok: more bytes are needed.
func varint(b []byte) (value, n int, ok bool) {
	for i := range 4 {
		if i == len(b) {
			return 0, 0, true
		}
		value |= int(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return value, i + 1, i == 0 || b[i] != 0
		}
	}
	return 0, 0, false
}

// AppendVarint appends n, 0 to MaxRemainingLength, as a variable byte integer.
func AppendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// VarintLen is the number of bytes AppendVarint appends for n.
func VarintLen(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

func malformed(detail string) error { return &Error{Reason: MalformedPacket, Detail: detail} }

func violation(detail string) error { return &Error{Reason: ProtocolError, Detail: detail} }
