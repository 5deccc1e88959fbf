package access

import (
	"strings"
	"sync"
)

// OrganizationRecord is all that log-ins need of one organization. Whoever hands it to Directory.Put or got it from
// Directory.Organization does not change it any more.
type OrganizationRecord struct {
	ID       string // org_ and 12 letters and digits
	UUID     string // lower case
	Number   uint64 // never given to another organization
	Revision uint64 // grows with every change
	Disabled bool
	Limits   Limits
	Users    map[string]UserRecord // by name
	RuleSets []RuleSet
	Keys     []KeyRecord
}

// UserRecord is one user of an organization.
type UserRecord struct {
	PasswordHash string // encoded, see NewPassword and HashChosen
	Disabled     bool
	RuleSet      string // id of the set that was given to this user, empty for the default one
}

// KeyRecord is one API key of an organization.
type KeyRecord struct {
	ID   string
	Kind KeyKind
	Hash KeyHash
}

// Directory is the in-memory picture of all organizations that log-ins read. Each organization's picture is replaced as a
// whole: a reader sees the old one or the new one. It is for many goroutines.
type Directory struct {
	mu       sync.RWMutex
	byID     map[string]*organization // by id and by UUID
	byNumber map[uint64]*organization
}

// organization is a record with what is derived from it. It is immutable.
type organization struct {
	record   OrganizationRecord
	hasRules bool
	sets     map[string]*preparedSet
	standard *preparedSet // the default set, nil if there is none
	keys     map[KeyHash]*KeyRecord
}

// NewDirectory is an empty directory.
func NewDirectory() *Directory {
	return &Directory{byID: make(map[string]*organization), byNumber: make(map[uint64]*organization)}
}

// Put replaces what is known of one organization.
func (d *Directory) Put(r OrganizationRecord) {
	o := &organization{record: r, sets: make(map[string]*preparedSet, len(r.RuleSets)), keys: make(map[KeyHash]*KeyRecord, len(r.Keys))}
	for i := range r.RuleSets {
		s := &r.RuleSets[i]
		p := prepare(s)
		o.sets[s.ID] = p
		o.hasRules = o.hasRules || len(s.Rules) > 0
		if s.Default {
			o.standard = p
		}
	}
	for i := range r.Keys {
		o.keys[r.Keys[i].Hash] = &r.Keys[i]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(r.ID)
	d.byID[r.ID], d.byNumber[r.Number] = o, o
	if r.UUID != "" {
		d.byID[r.UUID] = o
	}
}

// Remove forgets an organization. Nobody logs in to it any more.
func (d *Directory) Remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(id)
}

func (d *Directory) remove(id string) {
	if o := d.byID[id]; o != nil {
		delete(d.byID, o.record.ID)
		delete(d.byID, o.record.UUID)
		delete(d.byNumber, o.record.Number)
	}
}

// Organization is the record of an organization, by its id or its UUID. It is not to be changed.
func (d *Directory) Organization(idOrUUID string) (*OrganizationRecord, bool) {
	o := d.find(idOrUUID)
	if o == nil {
		return nil, false
	}
	return &o.record, true
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

// userGrant compiles what a user may do with a client identifier.
func (o *organization) userGrant(name string, u UserRecord, clientID string) *Grant {
	g := o.grant(name, clientID, u.PasswordHash)
	switch {
	case !o.hasRules:
		g.open = true
	case u.RuleSet != "":
		if p := o.sets[u.RuleSet]; p != nil { // a set that is not there allows nothing
			p.compile(g)
		}
	case o.standard != nil:
		o.standard.compile(g)
	}
	return g
}

func (o *organization) serverGrant(k *KeyRecord, clientID string) *Grant {
	g := o.grant(ServerUser, clientID, k.ID)
	g.Server = true
	return g
}

func (o *organization) grant(user, clientID, credential string) *Grant {
	return &Grant{
		User: user, Organization: o.record.ID, OrganizationNumber: o.record.Number, ClientID: clientID,
		Limits: o.record.Limits, Revision: o.record.Revision, credential: credential,
	}
}
