package broker

import (
	"fmt"
	"testing"

	"cloudsignal/internal/mqtt"
)

func benchmarkPublish(b *testing.B, n int) {
	for q := range mqtt.QoS(2) {
		b.Run(fmt.Sprintf("QoS%d", q), func(b *testing.B) {
			s := newServer(b, nil)
			defer s.Close()
			k := newCrowd(b, s, n, q)
			b.ReportAllocs()
			for b.Loop() {
				k.publish(b)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
			k.check(b, b.N)
		})
	}
}

// BenchmarkPublish1 is a publish to one subscriber; QoS 1 with both acknowledgements.
func BenchmarkPublish1(b *testing.B) { benchmarkPublish(b, 1) }

// BenchmarkPublish1000 is a publish to 1,000 subscribers; QoS 1 with all acknowledgements.
func BenchmarkPublish1000(b *testing.B) { benchmarkPublish(b, 1000) }

// BenchmarkConnect is CONNECT with a made password and rules, to CONNACK, and the end of the connection.
func BenchmarkConnect(b *testing.B) {
	s := newServer(b, nil)
	defer s.Close()
	packet := s.connectPacket("sub", "one", mqtt.V5).Append(nil, mqtt.V5)
	b.ReportAllocs()
	for b.Loop() {
		c := s.Accept(new(sink))
		if err := c.Feed(packet); err != nil {
			b.Fatal(err)
		}
		c.Closed(nil)
	}
}
