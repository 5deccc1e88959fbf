package mqtt

import "testing"

func samplePublish() *Publish {
	p := &Publish{QoS: 1, ID: 77, Topic: []byte("agents/agent-01/status"), Payload: make([]byte, 256)}
	p.Properties.Set(MessageExpiry)
	p.Properties.MessageExpiry = 60
	p.Properties.Set(ContentType)
	p.Properties.ContentType = []byte("application/json")
	p.Properties.User = []UserProperty{{[]byte("trace"), []byte("0123456789abcdef")}, {[]byte("trace"), []byte("again")}}
	return p
}

func BenchmarkDecodePublish(b *testing.B) {
	wire := samplePublish().Append(nil, V5)
	d := Decoder{Version: V5}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		h, n, _ := ReadHeader(wire)
		if _, err := d.Decode(h, wire[n:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodePublish(b *testing.B) {
	p := samplePublish()
	dst := p.Append(nil, V5)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = p.Append(dst[:0], V5)
	}
}
