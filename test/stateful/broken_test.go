package stateful

import (
	"bytes"

	"cloudsignal/internal/mqtt"
)

// breakage makes of a valid packet what a client may not send. a and b say where. certain tells that no server may take it,
// whatever the packet was.
type breakage struct {
	name    string
	certain bool
	damage  func(packet []byte, v mqtt.Version, a, b uint32) []byte
}

var breakages = []breakage{
	{"a bit flipped", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte {
		return flip(k, a)
	}},
	{"a bit flipped", false, func(k []byte, _ mqtt.Version, a, b uint32) []byte {
		return flip(flip(k, a), b)
	}},
	{"a bit of the head flipped", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte {
		return flip(k, a%(8*uint32(min(len(k), 16))))
	}},
	{"cut", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte { return k[:1+int(a)%len(k)] }},
	{"cut, and the next begins", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte {
		return append(k[:1+int(a)%len(k)], bytes.Repeat([]byte{0xC0, 0}, 40)...)
	}},
	{"a length that is too short", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte {
		k[1] = byte(int(k[1]&0x7f) * int(a%100) / 100)
		return k
	}},
	{"a length that is too long", false, func(k []byte, _ mqtt.Version, a, _ uint32) []byte {
		k[1] = min(k[1]&0x7f+1+byte(a%20), 0x7f)
		return append(k, bytes.Repeat([]byte{0}, 127)...)
	}},
	{"a byte inserted", false, func(k []byte, _ mqtt.Version, a, b uint32) []byte {
		at := int(a) % len(k)
		return append(append(bytes.Clone(k[:at]), byte(b)), k[at:]...)
	}},
	{"garbage", false, func(_ []byte, _ mqtt.Version, a, b uint32) []byte {
		out := make([]byte, 5+a%60)
		for i := range out {
			a = a*1664525 + b | 1
			out[i] = byte(a >> 16)
		}
		return out
	}},
	{"packet type 0", true, func(k []byte, _ mqtt.Version, _, _ uint32) []byte { k[0] &= 0x0f; return k }},
	{"QoS 3", true, fixed(0x36, 5, 0, 1, 't', 0, 1)},
	{"a length of five bytes", true, fixed(0x30, 0xff, 0xff, 0xff, 0xff, 1)},
	{"a length in more bytes than it needs", true, fixed(0xC0, 0x80, 0)},
	{"reserved flags of PINGREQ", true, fixed(0xC1, 0)},
	{"reserved flags of SUBSCRIBE", true, fixed(0x80, 6, 0, 1, 0, 1, 't', 0)},
	{"reserved flags of PUBREL", true, fixed(0x60, 2, 0, 1)},
	{"CONNACK of a client", true, fixed(0x20, 2, 0, 0)},
	{"SUBACK of a client", true, fixed(0x90, 3, 0, 1, 0)},
	{"UNSUBACK of a client", true, fixed(0xB0, 2, 0, 1)},
	{"PINGRESP of a client", true, fixed(0xD0, 0)},
	{"AUTH", true, fixed(0xF0, 0)},
	{"a second CONNECT", true, fixed(0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 1, 'x')},
	{"identifier 0", true, fixed(0x32, 5, 0, 1, 't', 0, 0)},
	{"a wildcard in a topic name", true, byVersion([]byte{0x30, 3, 0, 1, '#'}, []byte{0x30, 4, 0, 1, '#', 0})},
	{"U+0000 in a topic name", true, byVersion([]byte{0x30, 3, 0, 1, 0}, []byte{0x30, 4, 0, 1, 0, 0})},
	{"bytes that are not UTF-8", true, byVersion([]byte{0x30, 3, 0, 1, 0xff}, []byte{0x30, 4, 0, 1, 0xff, 0})},
	{"SUBSCRIBE without a filter", true, byVersion([]byte{0x82, 2, 0, 1}, []byte{0x82, 3, 0, 1, 0})},
	{"SUBSCRIBE without options", true, byVersion([]byte{0x82, 5, 0, 1, 0, 1, 't'}, []byte{0x82, 6, 0, 1, 0, 0, 1, 't'})},
	{"UNSUBSCRIBE without a filter", true, byVersion([]byte{0xA2, 2, 0, 1}, []byte{0xA2, 3, 0, 1, 0})},
	{"a misplaced wildcard", true, byVersion([]byte{0x82, 8, 0, 1, 0, 3, 'a', '#', 'b', 0}, []byte{0x82, 9, 0, 1, 0, 0, 3, 'a', '#', 'b', 0})},
	{"a property twice", true, byVersion([]byte{0x31, 2, 0, 0}, []byte{0x30, 8, 0, 1, 't', 4, 1, 0, 1, 0})},
	{"a subscription identifier in PUBLISH", true, byVersion([]byte{0x30, 2, 0, 0}, []byte{0x30, 6, 0, 1, 't', 2, 11, 1})},
	{"topic alias 0", true, byVersion([]byte{0x30, 2, 0, 0}, []byte{0x30, 7, 0, 1, 't', 3, 35, 0, 0})},
	{"topic alias 33", true, byVersion([]byte{0x30, 2, 0, 0}, []byte{0x30, 7, 0, 1, 't', 3, 35, 0, 33})},
}

var breakNames = func() (names []string) {
	for _, b := range breakages {
		names = append(names, b.name)
	}
	return names
}()

func fixed(packet ...byte) func([]byte, mqtt.Version, uint32, uint32) []byte {
	return byVersion(packet, packet)
}

func byVersion(v3, v5 []byte) func([]byte, mqtt.Version, uint32, uint32) []byte {
	return func(_ []byte, v mqtt.Version, _, _ uint32) []byte {
		if v == mqtt.V5 {
			return bytes.Clone(v5)
		}
		return bytes.Clone(v3)
	}
}

func flip(packet []byte, bit uint32) []byte {
	out := bytes.Clone(packet)
	bit %= uint32(8 * len(out))
	out[bit/8] ^= 1 << (bit % 8)
	return out
}

func breakageOf(name string) *breakage {
	for i := range breakages {
		if breakages[i].name == name {
			return &breakages[i]
		}
	}
	return nil
}
