package server

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsRoutes are the paths of the metrics listener. It is on loopback only: nothing here asks who is asking.
func (s *Server) metricsRoutes() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{s})
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return m
}

var (
	connectionsDesc = prometheus.NewDesc("cloudsignal_connections", "Connections now, those before log-in included.", nil, nil)
	subscribedDesc  = prometheus.NewDesc("cloudsignal_subscriptions", "Subscriptions now.", nil, nil)
	messagesDesc    = prometheus.NewDesc("cloudsignal_messages_total", "PUBLISH packets by direction (in: from clients) and QoS.", []string{"direction", "qos"}, nil)
	dropsDesc       = prometheus.NewDesc("cloudsignal_messages_dropped_total", "Messages, or copies of them, that were not passed on, by reason.", []string{"reason"}, nil)
	loginsDesc      = prometheus.NewDesc("cloudsignal_logins_total", "CONNECT packets by result: ok or the reason of the refusal.", []string{"result"}, nil)
	endsDesc        = prometheus.NewDesc("cloudsignal_connections_ended_total", "Connections that have ended, by reason.", []string{"reason"}, nil)
	filtersDesc     = prometheus.NewDesc("cloudsignal_filters_refused_total", "Filters of SUBSCRIBE that were refused, by reason.", []string{"reason"}, nil)
	pausedDesc      = prometheus.NewDesc("cloudsignal_reads_paused_total", "Times that a connection was not read for a while, by the rate it had reached.", []string{"reason"}, nil)
	forgottenDesc   = prometheus.NewDesc("cloudsignal_sessions_ended_total", "Stored sessions that ended before their time, by reason.", []string{"reason"}, nil)
	requestsDesc    = prometheus.NewDesc("cloudsignal_api_refused_total", "API requests by what was wrong with them or with the server.", []string{"reason"}, nil)
	acceptedDesc    = prometheus.NewDesc("cloudsignal_accepted_total", "Connections taken from the network.", []string{"listener"}, nil)
	handshakeDesc   = prometheus.NewDesc("cloudsignal_handshakes_failed_total", "Connections that ended in TLS or in the WebSocket upgrade.", []string{"listener", "reason"}, nil)
	pendingDesc     = prometheus.NewDesc("cloudsignal_over_pending_total", "Connections closed because too many were before log-in: in all, or of one address.", []string{"listener", "reason"}, nil)
)

// collector reads the counters when it is asked.
type collector struct{ s *Server }

// Describe names the metrics.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, subscribedDesc, messagesDesc, dropsDesc, loginsDesc, endsDesc, filtersDesc, pausedDesc, forgottenDesc, requestsDesc, acceptedDesc, handshakeDesc, pendingDesc} {
		to <- d
	}
}

// Collect sends the values of now.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	b := c.s.broker.Stats()
	to <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(b.Connections))
	to <- prometheus.MustNewConstMetric(subscribedDesc, prometheus.GaugeValue, float64(b.Filters))
	for q := range b.In {
		qos := string(rune('0' + q))
		count(messagesDesc, b.In[q], "in", qos)
		count(messagesDesc, b.Out[q], "out", qos)
	}
	each := func(d *prometheus.Desc, m map[string]uint64) {
		for label, n := range m {
			count(d, n, label)
		}
	}
	each(dropsDesc, b.Drops)
	each(loginsDesc, b.Logins)
	each(endsDesc, b.Ends)
	each(filtersDesc, b.Subscribes)
	each(pausedDesc, b.Paused)
	each(forgottenDesc, b.Forgotten)
	a := c.s.api.Counters()
	each(requestsDesc, map[string]uint64{
		"rate": a.Limited, "unauthorized": a.Unauthorized, "panic": a.Panics, "error": a.Failed, "rates_forgotten": a.Forgotten, "answers_forgotten": a.Unkept,
	})
	for _, l := range c.s.listeners {
		t, name := l.Stats(), string(l.Kind())
		count(acceptedDesc, t.Accepted, name)
		count(pendingDesc, t.OverPending, name, "all")
		count(pendingDesc, t.OverAddress, name, "address")
		for reason, n := range t.HandshakeFailed {
			count(handshakeDesc, n, name, string(reason))
		}
	}
}
