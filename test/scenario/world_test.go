package scenario

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/engine/pebble"
)

// world is one server: organizations with users, and the broker that serves them.
type world struct {
	t             testing.TB
	rand          *rand.ChaCha8
	directory     *access.Directory
	organizations map[string]*access.OrganizationRecord // by the name that scenarios use
	passwords     map[string]string                     // by name@organization, as scenarios write it
	log           strings.Builder
	cfg           broker.Config
	fs            *vfs.MemFS
	store         *pebble.Store
	broker        *broker.Broker
}

// newWorld makes a server without organizations. change may alter its configuration.
func newWorld(t testing.TB, seed uint64, change func(*broker.Config)) *world {
	w := &world{
		t: t, rand: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), directory: access.NewDirectory(),
		organizations: make(map[string]*access.OrganizationRecord), passwords: make(map[string]string),
	}
	cfg := broker.Config{
		Authenticator: access.NewAuthenticator(w.directory, access.AuthConfig{Rand: w.rand}),
		Rand:          w.rand,
		Log:           slog.New(slog.NewTextHandler(&w.log, nil)),
		Limits:        broker.DefaultLimits(),
	}
	if change != nil {
		change(&cfg)
	}
	w.cfg = cfg
	w.fs = vfs.NewCrashableMem()
	w.start()
	return w
}

// start starts the broker with what is on the disk.
func (w *world) start() {
	store, err := pebble.Open(pebble.Options{Dir: "store", FS: w.fs})
	w.must(err)
	w.store, w.cfg.Store = store, store
	w.broker, err = broker.New(w.cfg)
	w.must(err)
}

// close stops the broker and closes its store.
func (w *world) close() {
	w.broker.Close()
	w.must(w.store.Close())
}

// organization makes an organization with users, their passwords made by the server, and rules in the form
// "USER PERMISSION TOPIC EFFECT [PRIORITY]".
func (w *world) organization(name string, users, rules []string) {
	w.t.Helper()
	r := &access.OrganizationRecord{
		ID: organizationID(name), Number: uint64(len(w.organizations) + 1), Revision: 1, Users: make(map[string]access.UserRecord),
	}
	for _, u := range users {
		password, hash, err := access.NewPassword(w.rand)
		w.must(err)
		r.Users[u] = access.UserRecord{PasswordHash: hash}
		w.passwords[u+"@"+name] = password
	}
	key, err := access.NewKey(w.rand, access.SecretKey)
	w.must(err)
	r.Keys = []access.KeyRecord{{ID: "key_1", Kind: access.SecretKey, Hash: access.HashKey(key)}}
	w.passwords["server@"+name] = key
	r.RuleSets = w.ruleSets(rules)
	w.organizations[name] = r
	w.directory.Put(*r)
}

// rules replaces an organization's rules.
func (w *world) rules(name string, rules []string) {
	w.t.Helper()
	w.must(w.change(name, nil, func(r *access.OrganizationRecord) error {
		r.RuleSets = w.ruleSets(rules)
		return nil
	}))
}

// ruleSets makes the one set of rules of an organization, if there are any.
func (w *world) ruleSets(rules []string) []access.RuleSet {
	w.t.Helper()
	if len(rules) == 0 {
		return nil
	}
	set := access.RuleSet{ID: "set_1", Name: "default", Default: true}
	for i, line := range rules {
		f := strings.Fields(line)
		rule := access.Rule{ID: fmt.Sprintf("rule_%d", i+1), User: f[0], Topic: f[2]}
		w.must(rule.Permission.UnmarshalText([]byte(f[1])))
		w.must(rule.Effect.UnmarshalText([]byte(f[3])))
		if len(f) > 4 {
			_, err := fmt.Sscan(f[4], &rule.Priority)
			w.must(err)
		}
		w.must(rule.Validate())
		set.Rules = append(set.Rules, rule)
	}
	return []access.RuleSet{set}
}

// organizationID is the id of an organization that scenarios call by a short name.
func organizationID(name string) string {
	return "org_" + (name + "000000000000")[:12]
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
