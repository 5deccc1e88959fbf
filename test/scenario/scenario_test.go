// Package scenario runs text scenarios through the real broker: what clients send, and every packet that any of them is
// sent for it. Time stands still between commands. Expected packets are written anew with: go test ./test/scenario -rewrite
package scenario

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/broker"
	"cloudsignal/internal/mqtt"
)

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scenario{t: t, clients: make(map[string]*client)}
				defer s.end()
				datadriven.RunTest(t, file, s.step)
			})
		})
	}
}

// scenario is one file's server and clients.
type scenario struct {
	t       *testing.T
	world   *world
	change  func(*broker.Config)
	clients map[string]*client
	order   []string
	said    []string // what the server's own side has to say
}

// step runs one block. Its commands:
//
//	limits receive-maximum=N ...            before the first organization
//	organization NAME user=U... + rules     one per line: USER PERMISSION TOPIC EFFECT [PRIORITY]
//	rules NAME + rules                      replaces an organization's rules, and says what clients get for it
//	gone USER@ORG                           a user that control has deleted, which the broker is not told of
//	run [short]                             one command of a client per line, see command; short leaves out lines that count up
//	log [sorted]                            what was logged since, without its time
//	stats                                   the counters that are not zero
func (s *scenario) step(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "limits":
		s.change = limits(d)
	case "organization":
		if s.world == nil {
			s.world = newWorld(t, 1, s.change)
		}
		a := make(args)
		for _, arg := range d.CmdArgs {
			a[arg.Key] = append(a[arg.Key], arg.Vals...)
		}
		s.world.organization(d.CmdArgs[0].Key, a["user"], lines(d.Input))
	case "rules":
		s.world.rules(d.CmdArgs[0].Key, lines(d.Input))
		synctest.Wait()
		var out strings.Builder
		s.collect(&out)
		return out.String()
	case "gone": // deleted, and the server stopped before it was told
		user, org, _ := strings.Cut(d.CmdArgs[0].Key, "@")
		s.world.forget(org, user)
	case "run":
		var out strings.Builder
		for _, line := range lines(d.Input) {
			if err := s.command(strings.Fields(line)); err != nil {
				d.Fatalf(t, "%s: %v", line, err)
			}
			synctest.Wait()
			s.collect(&out)
		}
		if d.HasArg("short") {
			return shorten(out.String())
		}
		return out.String()
	case "log":
		log := s.world.log.String()
		s.world.log.Reset()
		return stripLog(log, d.HasArg("sorted"))
	case "stats":
		return stats(s.world.broker.Stats())
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return ""
}

func lines(input string) (all []string) {
	for line := range strings.Lines(input) {
		line, _, _ = strings.Cut(line, " // ")
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			all = append(all, line)
		}
	}
	return all
}

func limits(d *datadriven.TestData) func(*broker.Config) {
	a := make(args)
	for _, arg := range d.CmdArgs {
		a[arg.Key] = arg.Vals
	}
	return func(cfg *broker.Config) {
		l := &cfg.Limits
		l.Session.ReceiveMaximum = uint16(a.number("receive-maximum", uint64(l.Session.ReceiveMaximum)))
		l.Session.PacketBytes = uint32(a.number("packet", uint64(l.Session.PacketBytes)))
		l.Session.QueueBytes = int(a.number("queue", uint64(l.Session.QueueBytes)))
		l.Session.OutboundBytes = int(a.number("outbound", uint64(l.Session.OutboundBytes)))
		l.Session.Subscriptions = int(a.number("subscriptions", uint64(l.Session.Subscriptions)))
		l.Session.Stored = int(a.number("stored", uint64(l.Session.Stored)))
		l.MaxExpiry = uint32(a.number("max-expiry", uint64(l.MaxExpiry)))
		l.Retained = int(a.number("retained", uint64(l.Retained)))
	}
}

// collect writes what every client got, in the order in which they first connected.
func (s *scenario) collect(out *strings.Builder) {
	for _, line := range s.said {
		fmt.Fprintf(out, "server: %s\n", line)
	}
	s.said = nil
	for _, name := range s.order {
		got := s.clients[name].taken()
		sortRetained(got)
		sortTwins(got)
		for _, line := range got {
			if strings.HasPrefix(line, "broken") {
				s.t.Errorf("%s was sent what is not MQTT: %s", name, line)
			}
		}
		for _, line := range got {
			fmt.Fprintf(out, "%s: %s\n", name, line)
		}
	}
}

// sortRetained puts retained messages that come one after the other into an order: theirs is open.
func sortRetained(got []string) {
	isRetained := func(s string) bool { return strings.HasPrefix(s, "PUBLISH ") && strings.Contains(s, " retain") }
	for i := 0; i < len(got); i++ {
		j := i
		for j < len(got) && isRetained(got[j]) {
			j++
		}
		slices.Sort(got[i:j])
		i = max(i, j)
	}
}

// subscriptionOf is the identifier of the one subscription that a line was sent for.
var subscriptionOf = regexp.MustCompile(` subscription-id=\d+`)

// sortTwins puts the copies of one message that a client gets for an ordinary and for a shared subscription in the order of
// their subscriptions: which comes first is open. Packet identifiers stay where they are.
func sortTwins(got []string) {
	packet := regexp.MustCompile(` id=\d+`)
	bare := func(s string) string { return packet.ReplaceAllString(subscriptionOf.ReplaceAllString(s, ""), "") }
	for i := 1; i < len(got); i++ {
		a, b := subscriptionOf.FindString(got[i-1]), subscriptionOf.FindString(got[i])
		if a == "" || b == "" || b >= a || bare(got[i-1]) != bare(got[i]) {
			continue
		}
		got[i-1], got[i] = strings.Replace(got[i-1], a, b, 1), strings.Replace(got[i], b, a, 1)
	}
}

// end stops everything and waits for it: a goroutine that stays fails the bubble.
func (s *scenario) end() {
	for _, c := range s.clients {
		c.pause(false)
		c.conn.Close()
	}
	for _, c := range s.clients {
		c.running.Wait()
	}
	if s.world != nil {
		s.world.close()
	}
}

// restart stops the server and starts it again on the same disk: in good order, which clients are told, or after a power cut,
// which leaves what was synced, and which they see by their connections' end.
func (s *scenario) restart(cut bool) {
	var fs *vfs.MemFS
	if cut {
		fs = s.world.fs.CrashClone(vfs.CrashCloneCfg{})
		for _, c := range s.clients {
			c.pause(false)
			c.conn.Close()
			c.running.Wait()
			c.taken()
		}
	}
	s.world.close()
	if cut {
		s.world.fs = fs
	}
	s.world.start()
}

// command is one line: CLIENT VERB ARGUMENTS, or "wait DURATION", "drain", "restart", "cut", or one of organize.
func (s *scenario) command(f []string) error {
	switch f[0] {
	case "wait":
		d, err := time.ParseDuration(f[1])
		time.Sleep(d)
		return err
	case "drain":
		s.world.broker.Drain()
		return nil
	case "restart", "cut":
		s.restart(f[0] == "cut")
		return nil
	}
	if known, err := s.organize(f[0], f[1:]); known {
		return err
	}
	name, verb, a := f[0], f[1], parseArgs(f[2:])
	if verb == "connect" || verb == "dial" {
		return s.connect(name, verb, a)
	}
	c := s.clients[name]
	if c == nil {
		return fmt.Errorf("no client %s", name)
	}
	switch verb {
	case "drop":
		return c.conn.Close()
	case "pause", "resume":
		c.pause(verb == "pause")
		return nil
	case "raw":
		b, err := hex.DecodeString(strings.Join(f[2:], ""))
		if err != nil {
			return err
		}
		c.conn.Write(b) //nolint:errcheck // the broker may have closed: the client's reader says so
		return nil
	}
	var b []byte
	n := int(a.number("times", 1))
	for i := range n {
		p, err := packet(verb, a, i)
		if err != nil {
			return err
		}
		b = p.Append(b, c.version)
	}
	c.conn.Write(b) //nolint:errcheck // as above
	return nil
}

// connect replaces the client of that name by a new connection; "dial" sends nothing.
func (s *scenario) connect(name, verb string, a args) error {
	version := map[string]mqtt.Version{"5": mqtt.V5, "3.1.1": mqtt.V311, "3.1": mqtt.V31}[a.text("v", "5")]
	if !slices.Contains(s.order, name) {
		s.order = append(s.order, name)
	}
	if old := s.clients[name]; old != nil {
		old.conn.Close()
		old.running.Wait()
		if left := old.taken(); len(left) > 0 && left[0] != "closed" {
			return fmt.Errorf("the older connection of %s got %q", name, left)
		}
	}
	c := dial(s.world.broker, version, a.has("manual"), format)
	s.clients[name] = c
	if verb == "dial" {
		return nil
	}
	p := &mqtt.Connect{
		Version: version, CleanStart: a.text("clean", "1") == "1", KeepAlive: uint16(a.number("keep-alive", 0)), ClientID: bytesOf(a.text("id", name)),
	}
	if as := a.text("as", ""); as != "" {
		user, org, _ := strings.Cut(as, "@")
		p.HasUsername, p.Username = true, []byte(user+"@"+organizationID(org))
		p.HasPassword, p.Password = true, []byte(a.text("password", s.world.passwords[as]))
	}
	if a.has("username") {
		p.HasUsername, p.Username = true, bytesOf(a.text("username", ""))
		p.HasPassword, p.Password = true, bytesOf(a.text("password", ""))
	}
	props := make(args)
	for key, v := range a {
		if w, ok := strings.CutPrefix(key, "will-"); ok {
			props[w] = v
		}
	}
	if a.has("will") {
		p.HasWill, p.WillTopic, p.WillPayload = true, []byte(a.text("will", "")), bytesOf(props.text("payload", ""))
		p.WillQoS, p.WillRetain = mqtt.QoS(props.number("qos", 0)), props.has("retain")
		setProperties(&p.WillProperties, props)
	}
	setProperties(&p.Properties, a)
	c.conn.Write(p.Append(nil, version)) //nolint:errcheck // the reader says so
	return nil
}

// packet makes the packet of a verb; i counts the repetitions of times=, which raise the packet id and replace {} in topic
// and payload.
func packet(verb string, a args, i int) (mqtt.Packet, error) {
	id := uint16(a.number("id", 1)) + uint16(i)
	number := func(key string) string { return strings.ReplaceAll(a.text(key, ""), "{}", fmt.Sprint(i)) }
	switch verb {
	case "publish":
		p := &mqtt.Publish{Topic: []byte(number("topic")), Payload: bytesOf(number("payload")), QoS: mqtt.QoS(a.number("qos", 0)), Retain: a.has("retain"), Dup: a.has("dup")}
		if p.QoS > 0 {
			p.ID = id
		}
		setProperties(&p.Properties, a)
		return p, nil
	case "subscribe":
		p := &mqtt.Subscribe{ID: id}
		for _, f := range a["filter"] {
			p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{
				Filter: bytesOf(f), QoS: mqtt.QoS(a.number("qos", 0)), NoLocal: a.has("no-local"),
				RetainAsPublished: a.has("rap"), RetainHandling: mqtt.RetainHandling(a.number("rh", 0)),
			})
		}
		setProperties(&p.Properties, a)
		return p, nil
	case "unsubscribe":
		p := &mqtt.Unsubscribe{ID: id}
		for _, f := range a["filter"] {
			p.Filters = append(p.Filters, []byte(f))
		}
		return p, nil
	case "ping":
		return &mqtt.Ping{Type: mqtt.PINGREQ}, nil
	case "disconnect":
		p := &mqtt.Disconnect{Reason: mqtt.Reason(a.number("reason", 0))}
		setProperties(&p.Properties, a)
		return p, nil
	case "auth":
		return &mqtt.Auth{Reason: mqtt.ReAuthenticate}, nil
	}
	for _, t := range []mqtt.Type{mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP} {
		if strings.EqualFold(verb, t.String()) {
			return &mqtt.Ack{Type: t, ID: id, Reason: mqtt.Reason(a.number("reason", 0))}, nil
		}
	}
	return nil, fmt.Errorf("unknown verb %s", verb)
}

// stripLog keeps of each line what a scenario can predict.
func stripLog(log string, sorted bool) string {
	var all []string
	for line := range strings.Lines(log) {
		_, line, _ = strings.Cut(line, " ")
		all = append(all, line)
	}
	if sorted { // connections that were refused at the same moment
		slices.Sort(all)
	}
	return strings.Join(all, "")
}

var digits = regexp.MustCompile("[0-9]+")

// shorten leaves the first and the last of lines that differ from the one before only by numbers that are one higher.
func shorten(out string) string {
	all := strings.SplitAfter(out, "\n")
	var short strings.Builder
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j] != "" && countsUp(all[j-1], all[j]) {
			j++
		}
		if j-i > 3 {
			fmt.Fprintf(&short, "%s  ... %d lines that count up ...\n%s", all[i], j-i-2, all[j-1])
		} else {
			short.WriteString(strings.Join(all[i:j], ""))
		}
		i = j
	}
	return short.String()
}

func countsUp(before, after string) bool {
	a, b := digits.FindAllString(before, -1), digits.FindAllString(after, -1)
	if len(a) != len(b) || digits.ReplaceAllString(before, "0") != digits.ReplaceAllString(after, "0") {
		return false
	}
	for i := range a {
		x, _ := strconv.Atoi(a[i])
		if y, _ := strconv.Atoi(b[i]); y != x && y != x+1 {
			return false
		}
	}
	return before != after
}

func stats(k broker.Stats) string {
	var out []string
	add := func(kind string, m map[string]uint64) {
		for label, n := range m {
			if n > 0 {
				out = append(out, fmt.Sprintf("%s %s %d", kind, label, n))
			}
		}
	}
	for q := range k.In {
		add("in", map[string]uint64{fmt.Sprintf("qos%d", q): k.In[q]})
		add("out", map[string]uint64{fmt.Sprintf("qos%d", q): k.Out[q]})
	}
	add("drop", k.Drops)
	add("login", k.Logins)
	add("end", k.Ends)
	add("subscribe-refused", k.Subscribes)
	add("paused", k.Paused)
	add("session-ended", k.Forgotten)
	out = append(out, fmt.Sprintf("connections %d", k.Connections))
	slices.Sort(out)
	return strings.Join(out, "\n") + "\n"
}
