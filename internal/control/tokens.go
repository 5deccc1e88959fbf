package control

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/fault"
	"cloudsignal/internal/topic"
)

// Bounds of temporary tokens.
const (
	DefaultTokenTTL    = time.Hour
	DefaultMinTokenTTL = time.Minute // unless Options.MinTokenTTL is another
	MaxTokenTTL        = 24 * time.Hour

	MaxIdentities       = 1_000_000 // of an organization; the one that has had no token for longest goes, if that is unusedAfter
	MaxLiveIdentities   = 100_000   // of an organization, with tokens that live or ended a short while ago: they are in memory
	MaxLiveTokens       = 200_000   // of an organization, that live or ended a short while ago: they are in memory
	MaxTokensOfIdentity = 20        // that live, of one identity
	MaxTokenPasswords   = 16        // of a token that works or has ended; a refresh beyond ends the oldest
	MaxTokenTopics      = 100       // of one token
	maxTokenTopicBytes  = 16 << 10  // of one token
	maxSubject          = 255       // bytes
	maxProvider         = 64        // bytes

	defaultProvider = "cloudsignal" // its subjects are e-mail addresses
)

// NewToken is a temporary token to be made.
type NewToken struct {
	Provider    string        // who knows the identity; default cloudsignal
	Subject     string        // the identity at the provider; default Email
	Email       string        // of the identity; it may be empty if there is a Subject
	TTL         time.Duration // default one hour; at least Options.MinTokenTTL, at most MaxTokenTTL
	Keep        bool          // the identity's other tokens stay; else they are revoked
	Permissions []string      // publish, subscribe; nil: both
	Topics      []string      // filters: what the rules allow is narrowed to them; nil: it is not
	RuleSet     string        // id of the set that judges it; empty: the default one
}

// Token is a temporary token: the credentials of one identity for a while.
type Token struct {
	ID          string // tok_...
	User        string // token_..., the same for every token of the identity
	Provider    string
	Subject     string
	Email       string   // empty if none was given
	RuleSet     string   // empty: the default one
	Permissions []string // nil: both
	Topics      []string // nil: it is not narrowed
	CreatedAt   time.Time
	ExpiresAt   time.Time // of the newest password
	RefreshAt   time.Time // when to ask for another password: a tenth of its life before the end, never in the past
	RevokedAt   time.Time // zero if it was not

	ttl time.Duration
}

// TokenQuery chooses what ListTokens lists. Limit is 1 to MaxPage.
type TokenQuery struct {
	User  string // of this user name; empty: all
	After string // those after this id
	Limit int
}

// validate says what is wrong, and puts in what was left out.
func (n *NewToken) validate(shortest time.Duration) error {
	if n.Provider == "" {
		n.Provider = defaultProvider
	}
	if n.TTL == 0 {
		n.TTL = DefaultTokenTTL
	}
	if err := n.validateIdentity(); err != nil {
		return err
	}
	if n.TTL < shortest || n.TTL > MaxTokenTTL {
		return fault.Field("ttl", "must be from %d to %d seconds", int64((shortest+time.Second-1)/time.Second), int64(MaxTokenTTL/time.Second))
	}
	if n.Permissions != nil && len(n.Permissions) == 0 {
		return fault.Field("permissions", "must name publish, subscribe or both, or be left out")
	}
	for i, p := range n.Permissions {
		if p != access.Publish.String() && p != access.Subscribe.String() || slices.Contains(n.Permissions[:i], p) {
			return fault.Field("permissions["+itoa(i)+"]", "must be, once, publish or subscribe")
		}
	}
	return n.validateTopics()
}

func (n *NewToken) validateIdentity() error {
	if n.Email != "" || n.Subject == "" {
		key, err := checkEmail("user_email", n.Email)
		if err != nil {
			return err
		}
		if n.Subject == "" {
			n.Subject = key
		}
	}
	switch {
	case len(n.Provider) > maxProvider || !isPrintable(n.Provider):
		return fault.Field("provider", "must have at most %d printable characters", maxProvider)
	case len(n.Subject) > maxSubject || !isPrintable(n.Subject):
		return fault.Field("subject", "must have at most %d bytes, all of printable characters", maxSubject)
	}
	if err := access.CheckNoSecret("subject", n.Subject); err != nil {
		return err
	}
	if err := access.CheckNoSecret("provider", n.Provider); err != nil {
		return err
	}
	if key, err := checkEmail("subject", n.Subject); err == nil && n.Provider == defaultProvider {
		n.Subject = key // one mailbox is one identity; what is no address keeps its case
	}
	return nil
}

func isPrintable(s string) bool {
	return strings.ToValidUTF8(s, "") == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func (n *NewToken) validateTopics() error {
	if n.Topics != nil && len(n.Topics) == 0 || len(n.Topics) > MaxTokenTopics {
		return fault.Field("topics", "must be 1 to %d filters, or be left out", MaxTokenTopics)
	}
	bytes := 0
	for i, filter := range n.Topics {
		if err := topic.CheckFilter(filter, topic.Limits{}); err != nil {
			return fault.Field("topics["+itoa(i)+"]", "%s", err.Error())
		}
		if err := access.CheckNoSecret("topics["+itoa(i)+"]", filter); err != nil {
			return err
		}
		bytes += len(filter)
	}
	if bytes > maxTokenTopicBytes {
		return fault.Field("topics", "%d bytes in all, at most %d are possible", bytes, maxTokenTopicBytes)
	}
	return nil
}

// CreateToken makes a token. Its password is returned once and kept nowhere. The time it takes does not depend on how many there are. Fields:
// provider, subject, user_email, ttl, permissions, permissions[0], topics, topics[0], rule_set.
func (o *Organization) CreateToken(ctx context.Context, n NewToken) (token Token, password string, err error) {
	if err := o.may(access.TokensWrite); err != nil {
		return Token{}, "", err
	}
	if err := n.validate(o.store.minTTL); err != nil {
		return Token{}, "", err
	}
	err = o.change(ctx, access.TokensWrite, func(t *scope) error {
		if err := t.checkRuleSet(n.RuleSet); err != nil {
			return err
		}
		user, err := t.identity(&n)
		if err != nil {
			return err
		}
		var replaced []Token
		if !n.Keep {
			if replaced, err = t.revokeTokens(user); err != nil {
				return err
			}
		}
		if token, password, err = t.createToken(user, &n); err != nil {
			return err
		}
		for i := range replaced {
			why := map[string]string{"why": "replaced by " + token.ID}
			if err := t.audit("token.revoke", replaced[i].ID, replaced[i].detail(), why); err != nil {
				return err
			}
		}
		return t.audit("token.create", token.ID, nil, token.detail())
	})
	if err != nil {
		return Token{}, "", err
	}
	return token, password, nil
}

// tokenDetail is what the audit shows of a token.
type tokenDetail struct {
	User        string    `json:"user"`
	Provider    string    `json:"provider"`
	Subject     string    `json:"subject"`
	RuleSet     string    `json:"rule_set,omitempty"`
	Permissions []string  `json:"permissions,omitempty"`
	Topics      []string  `json:"topics,omitempty"`
	ExpiresAt   time.Time `json:"expires_at"`
}

func (k *Token) detail() tokenDetail {
	return tokenDetail{k.User, k.Provider, k.Subject, k.RuleSet, k.Permissions, k.Topics, k.ExpiresAt}
}

// identity is the user name of an identity, which is made if there is none.
func (t *scope) identity(n *NewToken) (user string, err error) {
	found, err := t.row([]any{&user}, `SELECT user_name FROM identities WHERE organization = $1 AND provider = $2 AND subject = $3`, n.Provider, n.Subject)
	if err != nil {
		return "", err
	}
	identities, tokens := t.directory.Tokens(t.id)
	more := !found || !t.directory.Has(uint64(t.number), user)
	switch {
	case more && identities >= MaxLiveIdentities:
		return "", fault.New(fault.Exhausted, "at most %d identities of an organization have tokens at the same time", MaxLiveIdentities)
	case (more || n.Keep) && tokens >= MaxLiveTokens:
		return "", fault.New(fault.Exhausted, "an organization has at most %d tokens at the same time; revoke some, or replace them", MaxLiveTokens)
	}
	if found {
		if n.Email != "" {
			_, err = t.exec(`UPDATE identities SET email = $3 WHERE organization = $1 AND user_name = $2`, user, n.Email)
		}
		return user, err
	}
	var all int
	if _, err := t.row([]any{&all}, `SELECT identities FROM organizations WHERE number = $1`); err != nil {
		return "", err
	}
	if all >= MaxIdentities {
		if err := t.forgetIdentity(); err != nil {
			return "", err
		}
	}
	if user, err = access.NewID(t.rand, access.TokenUserPrefix); err != nil {
		return "", err
	}
	_, err = t.exec(`INSERT INTO identities (organization, user_name, provider, subject, email, created_at, ends_at)
		VALUES ($1, $2, $3, $4, $5, $6, 0)`, user, n.Provider, n.Subject, n.Email, t.now.UnixMilli())
	if err != nil {
		return "", err
	}
	_, err = t.exec(`UPDATE organizations SET identities = identities + 1 WHERE number = $1`)
	return user, err
}

// forgetIdentity makes room for one: the identity that has had no token for longest goes. It would get another user name if it came back.
func (t *scope) forgetIdentity() error {
	n, err := t.exec(`DELETE FROM identities WHERE organization = $1 AND user_name IN
		(SELECT user_name FROM identities WHERE organization = $1 AND ends_at < $2 ORDER BY ends_at LIMIT 1)`, t.now.Add(-unusedAfter).UnixMilli())
	if err == nil && n == 0 {
		err = fault.New(fault.Exhausted, "an organization has at most %d identities that have had a token lately", MaxIdentities)
	}
	if err == nil {
		_, err = t.exec(`UPDATE organizations SET identities = identities - 1 WHERE number = $1`)
	}
	return err
}

// revokeTokens revokes what lives of a user name, and gives it as it was.
func (t *scope) revokeTokens(user string) (live []Token, err error) {
	err = t.rows(func(scan func(...any) error) error {
		k, err := t.scanToken(scan)
		live = append(live, k)
		return err
	}, `SELECT `+tokenColumns+tokenTables+`WHERE t.organization = $1 AND t.user_name = $2 AND t.revoked_at = 0 AND t.expires_at > $3 ORDER BY t.id`,
		user, t.now.UnixMilli())
	if err != nil {
		return nil, err
	}
	_, err = t.exec(`UPDATE tokens SET revoked_at = $3 WHERE organization = $1 AND user_name = $2 AND revoked_at = 0 AND expires_at > $3`,
		user, t.now.UnixMilli())
	return live, err
}

func (t *scope) createToken(user string, n *NewToken) (Token, string, error) {
	var live int
	_, err := t.row([]any{&live}, `SELECT count(*) FROM tokens WHERE organization = $1 AND user_name = $2 AND revoked_at = 0 AND expires_at > $3`,
		user, t.now.UnixMilli())
	if err != nil {
		return Token{}, "", err
	}
	if live >= MaxTokensOfIdentity {
		return Token{}, "", fault.New(fault.Exhausted, "an identity has at most %d tokens at the same time; revoke one, or replace them", MaxTokensOfIdentity)
	}
	id, err := access.NewID(t.rand, "tok_")
	if err != nil {
		return Token{}, "", err
	}
	topics := ""
	if n.Topics != nil {
		text, err := json.Marshal(n.Topics)
		if err != nil {
			return Token{}, "", err
		}
		topics = string(text)
	}
	_, err = t.exec(`INSERT INTO tokens (organization, id, user_name, rule_set, permissions, topics, ttl, created_at, expires_at, revoked_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0)`,
		id, user, n.RuleSet, strings.Join(n.Permissions, " "), topics, n.TTL.Milliseconds(), t.now.UnixMilli())
	if err != nil {
		return Token{}, "", err
	}
	password, err := t.addPassword(id, user, n.TTL)
	if err != nil {
		return Token{}, "", err
	}
	token, err := t.token(id)
	return token, password, err
}

// addPassword gives a token another password, which makes it live longer, and takes those away that are too many.
func (t *scope) addPassword(id, user string, ttl time.Duration) (string, error) {
	password, err := access.NewKey(t.rand, access.TokenPassword)
	if err != nil {
		return "", err
	}
	var last int64
	if _, err := t.row([]any{&last}, `SELECT COALESCE(max(number), 0) FROM token_passwords WHERE organization = $1 AND token = $2`, id); err != nil {
		return "", err
	}
	ends := t.now.Add(ttl).UnixMilli()
	_, err = t.exec(`INSERT INTO token_passwords (organization, token, number, hash, expires_at) VALUES ($1, $2, $3, $4, $5)`,
		id, last+1, access.HashKey(password).String(), ends)
	if err != nil {
		return "", err
	}
	_, err = t.exec(`DELETE FROM token_passwords WHERE organization = $1 AND token = $2 AND number <= $3`, id, last+1-MaxTokenPasswords)
	if err != nil {
		return "", err
	}
	// The clock may have gone back: what was promised holds.
	if _, err = t.exec(`UPDATE tokens SET expires_at = $3 WHERE organization = $1 AND id = $2 AND expires_at < $3`, id, ends); err != nil {
		return "", err
	}
	_, err = t.exec(`UPDATE identities SET ends_at = $3 WHERE organization = $1 AND user_name = $2 AND ends_at < $3`, user, ends)
	t.identities = append(t.identities, user)
	return password, err
}

const tokenColumns = `t.id, t.user_name, i.provider, i.subject, i.email, t.rule_set, t.permissions, t.topics, t.ttl, t.created_at, t.expires_at, t.revoked_at`

const tokenTables = ` FROM tokens t JOIN identities i ON i.organization = t.organization AND i.user_name = t.user_name `

func (t *scope) scanToken(scan func(...any) error) (k Token, err error) {
	var permissions, topics string
	var ttl, created, expires, revoked int64
	err = scan(&k.ID, &k.User, &k.Provider, &k.Subject, &k.Email, &k.RuleSet, &permissions, &topics, &ttl, &created, &expires, &revoked)
	if err != nil {
		return k, err
	}
	k.ttl = time.Duration(ttl) * time.Millisecond
	k.CreatedAt, k.ExpiresAt, k.RevokedAt = fromMillis(created), fromMillis(expires), fromMillisOrNever(revoked)
	k.RefreshAt = fromMillis(expires - ttl/10)
	if now := fromMillis(t.now.UnixMilli()); k.RefreshAt.Before(now) {
		k.RefreshAt = now
	}
	if permissions != "" {
		k.Permissions = strings.Fields(permissions)
	}
	if topics != "" {
		err = json.Unmarshal([]byte(topics), &k.Topics)
	}
	return k, err
}

func (t *scope) token(id string) (k Token, err error) {
	found := false
	err = t.rows(func(scan func(...any) error) error {
		found = true
		k, err = t.scanToken(scan)
		return err
	}, `SELECT `+tokenColumns+tokenTables+`WHERE t.organization = $1 AND t.id = $2`, id)
	if err == nil && !found {
		err = noToken(id)
	}
	return k, err
}

func noToken(id string) error { return fault.New(fault.NotFound, "there is no token %q", id) }

// Token is one token, as long as it is kept: some days after its end.
func (o *Organization) Token(ctx context.Context, id string) (token Token, err error) {
	err = o.read(ctx, access.TokensRead, func(t *scope) (err error) {
		token, err = t.token(id)
		return err
	})
	return token, err
}

// ListTokens lists tokens, those that have ended too, in order of their ids. Fields: limit.
func (o *Organization) ListTokens(ctx context.Context, q TokenQuery) ([]Token, error) {
	if err := o.may(access.TokensRead); err != nil {
		return nil, err
	}
	if err := checkLimit(q.Limit); err != nil {
		return nil, err
	}
	var w where
	w.and("t.id > ?", q.After)
	if q.User != "" {
		w.and("t.user_name = ?", q.User)
	}
	var tokens []Token
	err := o.read(ctx, access.TokensRead, func(t *scope) error {
		return t.rows(func(scan func(...any) error) error {
			k, err := t.scanToken(scan)
			tokens = append(tokens, k)
			return err
		}, `SELECT `+tokenColumns+tokenTables+`WHERE t.organization = $1`+w.text+` ORDER BY t.id LIMIT `+itoa(q.Limit), w.args...)
	})
	return tokens, err
}

// RevokeToken ends a token now. One that has ended stays as it is.
func (o *Organization) RevokeToken(ctx context.Context, id string) error {
	return o.change(ctx, access.TokensWrite, func(t *scope) error {
		k, err := t.token(id)
		if err != nil {
			return err
		}
		n, err := t.exec(`UPDATE tokens SET revoked_at = $3 WHERE organization = $1 AND id = $2 AND revoked_at = 0 AND expires_at > $3`,
			id, t.now.UnixMilli())
		if err != nil {
			return err
		}
		t.identities = append(t.identities, k.User)
		if n == 0 {
			return nil
		}
		return t.audit("token.revoke", id, k.detail(), nil)
	})
}

// checkPassword is nil if one of a live token's passwords that have not ended is this one. Every hash is compared, in constant time.
func (t *scope) checkPassword(k *Token, password string) error {
	h := access.HashKey(password)
	found, ended := false, false
	err := t.rows(func(scan func(...any) error) error {
		var text string
		var expires int64
		if err := scan(&text, &expires); err != nil {
			return err
		}
		stored, err := access.ParseKeyHash(text)
		if subtle.ConstantTimeCompare(stored[:], h[:]) == 1 {
			found, ended = true, expires <= t.now.UnixMilli()
		}
		return err
	}, `SELECT hash, expires_at FROM token_passwords WHERE organization = $1 AND token = $2`, k.ID)
	switch {
	case err != nil:
		return err
	case !found, !k.RevokedAt.IsZero() && !ended:
		return errTokenPassword
	case ended:
		return errTokenEnded
	}
	return nil
}

var (
	errTokenPassword = fault.New(fault.Unauthorized, "this is not a password of the token, or the token was revoked")
	errTokenEnded    = fault.New(fault.Expired, "the token has ended; ask for another one")
)
