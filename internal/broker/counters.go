package broker

import (
	"maps"
	"sync"
	"sync/atomic"

	"cloudsignal/internal/access"
	"cloudsignal/internal/mqtt"
)

// Labels of what is counted, beside those of drops.
const (
	overConnections    = "connections" // the organization has as many as it may
	overSessions       = "sessions"
	overSubscriptions  = "subscriptions" // the connection has more than it may, since there were to be fewer
	pausedConnection   = "publish_rate"
	pausedOrganization = "message_rate"
	pausedPackets      = "packet_rate"
	overTakeOvers      = "take_over_rate" // the client identifier is taken over more often than it may be
)

// drop is why a message was not passed on.
type drop int

const (
	dropRefused  drop = iota // the rules
	dropTopic                // too long or too deep
	dropQueue                // the receiver's queue or outbound buffer is full
	dropTooLarge             // above the receiver's Maximum Packet Size
	dropExpired
	dropRetained // the organization's bound of retained messages
	dropStore    // the disk is full, or has failed
	dropFilters  // too many durable filters match
	dropNoMember // the last member of a shared subscription has left
	dropSize     // above the organization's limit, which was lowered since CONNECT
	dropMonth    // the organization's messages of the month are used up
	dropStorage  // the organization's storage is
	dropRate     // over HTTP, which does not wait: the organization's messages of the second are
	drops

	none drop = -1
)

var dropNames = [drops]string{
	"refused", "topic_invalid", "queue_full", "too_large", "expired", "retained_full", "store", "durable_filters", "no_member",
	"message_size", "month", "storage", "rate",
}

// counters are the server's; connections count for themselves and fold their counts in once per read or write.
type counters struct {
	connections   atomic.Int64
	subscriptions atomic.Int64
	in            [3]atomic.Uint64
	out           [3]atomic.Uint64
	drops         [drops]atomic.Uint64

	mu         sync.Mutex
	logins     map[string]uint64
	ends       map[string]uint64
	subscribes map[string]uint64 // refused filters

	sessionsEnded map[string]uint64 // that had no connection, by reason
	paused        map[string]uint64 // readers that waited for a rate
}

// begin makes the series that operators watch from the start: what appears only with its first event has no rate before.
func (k *counters) begin() {
	zero := func(labels ...string) map[string]uint64 {
		m := make(map[string]uint64)
		for _, l := range labels {
			m[l] = 0
		}
		return m
	}
	k.logins = zero("ok", access.WhyMalformed, access.WhyUnknownOrganization, access.WhyUnknownUser, access.WhyWrongPassword,
		access.WhyDisabled, access.WhyNoPassword, access.WhyBusy, access.WhyTooManyFailures, access.WhyExpired, access.WhyRevoked,
		overConnections, overSessions, overSubscriptions, overTakeOvers)
	k.ends = zero("disconnect", "closed_by_client", "network", "refused", "taken_over", "keep_alive", "packet_timeout", "connect_timeout", "draining",
		overConnections, overSubscriptions, "over_limit", "administrative", whyRotated, whyRevoked, whyDeleted, access.WhyDisabled, whyExpired)
	k.paused = zero(pausedConnection, pausedOrganization, pausedPackets)
	k.sessionsEnded = zero("default_limit", whyDeleted)
	k.subscribes = zero(reasonLabel(mqtt.NotAuthorized), reasonLabel(mqtt.TopicFilterInvalid), reasonLabel(mqtt.QuotaExceeded))
}

func (k *counters) count(m *map[string]uint64, label string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[label]++
}

// Stats is a snapshot of the broker's counters.
type Stats struct {
	Connections int64             // open now, those before log-in included
	Filters     int64             // subscriptions now
	In, Out     [3]uint64         // PUBLISH packets by QoS
	Drops       map[string]uint64 // messages, or copies of them, by reason
	Logins      map[string]uint64 // by result: "ok" or the reason of the refusal
	Ends        map[string]uint64 // connections that ended, by reason
	Subscribes  map[string]uint64 // filters refused, or taken back when rules changed, by reason
	Paused      map[string]uint64 // times that a connection was not read for a while, by the rate that it had reached
	Forgotten   map[string]uint64 // stored sessions that ended before their time, by reason
}

// Stats takes a snapshot.
func (b *Broker) Stats() Stats {
	k := &b.counters
	s := Stats{Connections: k.connections.Load(), Filters: k.subscriptions.Load(), Drops: make(map[string]uint64, drops)}
	for q := range s.In {
		s.In[q], s.Out[q] = k.in[q].Load(), k.out[q].Load()
	}
	for d := range k.drops {
		s.Drops[dropNames[d]] = k.drops[d].Load()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Logins, s.Ends, s.Subscribes = maps.Clone(k.logins), maps.Clone(k.ends), maps.Clone(k.subscribes)
	s.Paused, s.Forgotten = maps.Clone(k.paused), maps.Clone(k.sessionsEnded)
	return s
}
