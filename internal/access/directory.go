package access

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/immutable"
)

// OrganizationRecord is all that log-ins need of one organization. Whoever hands it to Directory.Put or got it from
// Directory.Organization does not change it any more.
type OrganizationRecord struct {
	ID         string // org_ and 12 letters and digits
	UUID       string // lower case
	Number     uint64 // never given to another organization
	Revision   uint64 // grows with every change
	Disabled   bool
	Limits     Limits
	Users      map[string]UserRecord     // by name; nil in what Directory.Organization gives
	Identities map[string]IdentityRecord // by the user name that their tokens log in as; nil as well
	RuleSets   []RuleSet
	Keys       []KeyRecord
}

// UserRecord is one user of an organization.
type UserRecord struct {
	PasswordHash string // encoded, see NewPassword and HashChosen
	Disabled     bool
	RuleSet      string // id of the set that was given to this user, empty for the default one
}

// IdentityRecord is what temporary tokens are made for.
type IdentityRecord struct {
	Until  time.Time     // the latest end of any token it has had: some time after it the record may be forgotten
	Tokens []TokenRecord // those that were not revoked, the newest last; some may have ended
}

// TokenRecord is one temporary token.
type TokenRecord struct {
	ID         string
	Expires    time.Time       // of its newest password
	Passwords  []TokenPassHash // the newest last
	RuleSet    string          // id of the set that judges it, empty for the default one
	Permission Permission      // what it may at most
	Topics     []string        // filters that narrow what the rules allow; nil: they do not
}

// TokenPassHash is one password of a token, which has 165 random bits.
type TokenPassHash struct {
	Hash    KeyHash
	Expires time.Time
}

// KeyRecord is one API key of an organization.
type KeyRecord struct {
	ID     string
	Kind   KeyKind
	Name   string
	Scopes []Scope // of a restricted key
	Hash   KeyHash
}

// Update is what differs in the next picture of one organization.
type Update struct {
	ID         string
	Revision   uint64
	Disabled   bool
	Limits     Limits
	Users      map[string]*UserRecord     // those that differ; nil: gone
	Identities map[string]*IdentityRecord // those that differ; nil: gone
	RuleSets   *[]RuleSet                 // nil: as they were
	Keys       *[]KeyRecord               // nil: as they were
}

// Directory is the in-memory picture of all organizations that log-ins read. Each organization's picture is replaced as a
// whole: a reader sees the old one or the new one. It is for many goroutines.
type Directory struct {
	mu       sync.RWMutex
	byID     map[string]*organization // by id and by UUID
	byNumber map[uint64]*organization
	byKey    map[KeyHash]uint64 // the number of the organization that has the key
	hasher   hasher
}

// organization is a record with what is derived from it. It is immutable. Its users and identities are persistent maps: a change of one
// user costs the same whether there are ten or a hundred thousand.
type organization struct {
	record     OrganizationRecord // without Users and Identities
	users      *immutable.Map[string, UserRecord]
	identities *immutable.Map[string, IdentityRecord]
	tokens     int // of all identities
	hasRules   bool
	sets       map[string]*preparedSet
	standard   *preparedSet // the default set, nil if there is none
	keys       map[KeyHash]*KeyRecord
	keysByID   map[string]*KeyRecord
}

// hasher has a seed of its own, so that nobody can choose names that fall together.
type hasher struct{ seed maphash.Seed }

func (h hasher) Hash(name string) uint32      { return uint32(maphash.String(h.seed, name)) }
func (h hasher) Equal(one, other string) bool { return one == other }

// NewDirectory is an empty directory.
func NewDirectory() *Directory {
	return &Directory{
		byID: make(map[string]*organization), byNumber: make(map[uint64]*organization), byKey: make(map[KeyHash]uint64),
		hasher: hasher{maphash.MakeSeed()},
	}
}

// Put replaces all that is known of one organization.
func (d *Directory) Put(r OrganizationRecord) {
	o := &organization{
		record: r, users: immutable.NewMapOf(d.hasher, r.Users), identities: immutable.NewMapOf(d.hasher, r.Identities),
	}
	o.record.Users, o.record.Identities = nil, nil
	for _, i := range r.Identities {
		o.tokens += len(i.Tokens)
	}
	o.prepareRules()
	o.prepareKeys()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.replace(d.byID[r.ID], o)
}

// Update replaces part of what is known of one organization. It is false if nothing is: then all of it is wanted, by Put. The time it
// takes depends on what differs, not on how many users and tokens there are.
func (d *Directory) Update(u Update) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.byID[u.ID]
	if was == nil {
		return false
	}
	o := *was
	o.record.Revision, o.record.Disabled, o.record.Limits = u.Revision, u.Disabled, u.Limits
	for name, r := range u.Users {
		if r == nil {
			o.users = o.users.Delete(name)
		} else {
			o.users = o.users.Set(name, *r)
		}
	}
	for name, r := range u.Identities {
		old, _ := o.identities.Get(name)
		o.tokens -= len(old.Tokens)
		if r == nil {
			o.identities = o.identities.Delete(name)
		} else {
			o.identities = o.identities.Set(name, *r)
			o.tokens += len(r.Tokens)
		}
	}
	if u.RuleSets != nil {
		o.record.RuleSets = *u.RuleSets
		o.prepareRules()
	}
	if u.Keys != nil {
		o.record.Keys = *u.Keys
		o.prepareKeys()
	}
	d.replace(was, &o)
	return true
}

func (o *organization) prepareRules() {
	o.hasRules, o.standard, o.sets = false, nil, make(map[string]*preparedSet, len(o.record.RuleSets))
	for i := range o.record.RuleSets {
		s := &o.record.RuleSets[i]
		p := prepare(s)
		o.sets[s.ID] = p
		o.hasRules = o.hasRules || len(s.Rules) > 0
		if s.Default {
			o.standard = p
		}
	}
}

func (o *organization) prepareKeys() {
	n := len(o.record.Keys)
	o.keys, o.keysByID = make(map[KeyHash]*KeyRecord, n), make(map[string]*KeyRecord, n)
	for i := range o.record.Keys {
		k := &o.record.Keys[i]
		o.keys[k.Hash], o.keysByID[k.ID] = k, k
	}
}

// replace puts o in the place of was, which may be nil.
func (d *Directory) replace(was, o *organization) {
	if was == nil || len(was.record.Keys) != len(o.record.Keys) || len(o.record.Keys) > 0 && &was.record.Keys[0] != &o.record.Keys[0] {
		d.forgetKeys(was)
		for h := range o.keys {
			d.byKey[h] = o.record.Number
		}
	}
	if was != nil {
		delete(d.byID, was.record.UUID)
		delete(d.byNumber, was.record.Number)
	}
	d.byID[o.record.ID], d.byNumber[o.record.Number] = o, o
	if o.record.UUID != "" {
		d.byID[o.record.UUID] = o
	}
}

func (d *Directory) forgetKeys(o *organization) {
	if o == nil {
		return
	}
	for h := range o.keys {
		delete(d.byKey, h)
	}
}

// Remove forgets an organization. Nobody logs in to it any more.
func (d *Directory) Remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.byID[id]; o != nil {
		d.forgetKeys(o)
		delete(d.byID, o.record.ID)
		delete(d.byID, o.record.UUID)
		delete(d.byNumber, o.record.Number)
	}
}

// Forget takes identities out of an organization, given by its number, whose tokens all ended before a time. The revision stays: those that
// have ended may do nothing either way.
func (d *Directory) Forget(number uint64, users []string, before time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.byNumber[number]
	if was == nil {
		return
	}
	o := *was
	for _, name := range users {
		if i, ok := o.identities.Get(name); ok && i.Until.Before(before) {
			o.tokens -= len(i.Tokens)
			o.identities = o.identities.Delete(name)
		}
	}
	d.replace(was, &o)
}

// Organization is the record of an organization, by its id or its UUID, without users and identities. It is not to be changed.
func (d *Directory) Organization(idOrUUID string) (*OrganizationRecord, bool) {
	o := d.find(idOrUUID)
	if o == nil {
		return nil, false
	}
	return &o.record, true
}

// Whole is a copy of the record with users and identities, which takes time for each of them.
func (d *Directory) Whole(idOrUUID string) (OrganizationRecord, bool) {
	o := d.find(idOrUUID)
	if o == nil {
		return OrganizationRecord{}, false
	}
	r := o.record
	r.Users, r.Identities = copyOf(o.users), copyOf(o.identities)
	return r, true
}

func copyOf[V any](m *immutable.Map[string, V]) map[string]V {
	out := make(map[string]V, m.Len())
	for i := m.Iterator(); !i.Done(); {
		k, v, _ := i.Next()
		out[k] = v
	}
	return out
}

func (d *Directory) find(idOrUUID string) *organization {
	if len(idOrUUID) == uuidLength {
		idOrUUID = strings.ToLower(idOrUUID)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID[idOrUUID]
}

func (d *Directory) findNumber(number uint64) *organization {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byNumber[number]
}
