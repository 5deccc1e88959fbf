package control_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cloudsignal/internal/access"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// changer makes random changes, most of them possible.
type changer struct {
	*fixture
	*rand.Rand
	ids        []string
	sets, keys map[string][]string // by organization
	rules      map[string][]string // by set
	tokens     []made
}

// made is a token and its newest password.
type made struct {
	control.Token
	organization, password string
}

func (c *changer) pick(of []string) string {
	if len(of) == 0 || c.IntN(10) == 0 {
		return "none"
	}
	return of[c.IntN(len(of))]
}

func (c *changer) name() string { return fmt.Sprintf("u%d", c.IntN(6)) }

func (c *changer) someRules() (rules []access.Rule) {
	for range c.IntN(4) {
		rules = append(rules, access.Rule{
			User: c.name(), Topic: fmt.Sprintf("t%d/%%u/#", c.IntN(9)), Permission: access.Permission(1 + c.IntN(3)),
			Effect: access.Effect(1 + c.IntN(2)), Priority: c.IntN(3),
		})
	}
	return rules
}

func (c *changer) change(ctx context.Context) (err error) {
	id := c.pick(c.ids)
	o := c.In(control.System(), id)
	switch c.IntN(22) {
	case 0:
		var info control.OrganizationInfo
		if info, err = c.CreateOrganization(ctx, control.System(), "o"); err == nil {
			c.ids = append(c.ids, info.ID)
		}
	case 1:
		if c.IntN(4) == 0 {
			err = c.In(control.System(), id).Delete(ctx)
		}
	case 2:
		off, connections := c.IntN(2) == 0, c.IntN(9)
		if _, err = o.Update(ctx, control.OrganizationUpdate{Disabled: &off}); c.IntN(2) == 0 {
			_, err = o.SetLimits(ctx, control.LimitsUpdate{MaxConnections: &connections})
		}
	case 3, 4, 5, 6:
		n := control.NewUser{Name: c.name()}
		if c.IntN(2) == 0 {
			n.RuleSet = c.pick(c.sets[id])
		}
		_, _, err = o.CreateUser(ctx, n)
	case 7:
		off, set := c.IntN(2) == 0, c.pick(c.sets[id])
		_, err = o.UpdateUser(ctx, c.name(), control.UserUpdate{Disabled: &off, RuleSet: &set})
	case 8:
		_, err = o.RotatePassword(ctx, c.name())
	case 9:
		err = o.DeleteUser(ctx, c.name())
	case 10, 11:
		var set access.RuleSet
		n := control.NewRuleSet{Name: fmt.Sprintf("s%d", c.IntN(5)), Default: c.IntN(3) == 0, Rules: c.someRules()}
		if set, err = o.CreateRuleSet(ctx, n); err == nil {
			c.sets[id] = append(c.sets[id], set.ID)
		}
	case 12:
		_, err = o.ReplaceRules(ctx, c.pick(c.sets[id]), c.someRules())
	case 13:
		if err = makeDefault(ctx, o, c.pick(c.sets[id])); c.IntN(3) == 0 {
			err = o.DeleteRuleSet(ctx, c.pick(c.sets[id]))
		}
	default:
		err = c.changeMore(ctx, id)
	}
	return err
}

// changeMore changes keys, single rules and tokens, and lets time go by.
func (c *changer) changeMore(ctx context.Context, id string) (err error) {
	o := c.In(control.System(), id)
	switch c.IntN(8) {
	case 0:
		var key control.Key
		n := control.NewKey{Kind: access.SecretKey, Name: "k"}
		if c.IntN(2) == 0 {
			n = control.NewKey{Kind: access.RestrictedKey, Name: "k", Scopes: access.Scopes()[:1+c.IntN(4)]}
		}
		if key, _, err = o.CreateKey(ctx, n); err == nil {
			c.keys[id] = append(c.keys[id], key.ID)
		}
	case 1:
		if err = o.RevokeKey(ctx, c.pick(c.keys[id])); c.IntN(2) == 0 {
			_, _, err = o.RotateKey(ctx, c.pick(c.keys[id]))
		}
	case 2:
		set := c.pick(c.sets[id])
		var rule access.Rule
		if rule, err = o.CreateRule(ctx, set, access.Rule{User: "%", Topic: "r", Permission: access.PermitBoth, Effect: access.Allow}, nil); err == nil {
			c.rules[set] = append(c.rules[set], rule.ID)
		}
	case 3:
		set, at := c.pick(c.sets[id]), c.IntN(3)
		if _, err = o.UpdateRule(ctx, set, c.pick(c.rules[set]), control.RuleUpdate{Position: &at}); c.IntN(3) == 0 {
			err = o.DeleteRule(ctx, set, c.pick(c.rules[set]))
		}
	case 4, 5:
		n := control.NewToken{Subject: c.name(), Keep: c.IntN(2) == 0, TTL: time.Duration(1+c.IntN(90)) * time.Minute}
		if c.IntN(4) == 0 {
			n.RuleSet, n.Topics, n.Permissions = c.pick(c.sets[id]), []string{"t1/#"}, []string{"subscribe"}
		}
		var k control.Token
		var password string
		if k, password, err = o.CreateToken(ctx, n); err == nil {
			c.tokens = append(c.tokens, made{k, id, password})
		}
	case 6:
		err = c.refreshOrRevoke(ctx)
	case 7:
		c.now = c.now.Add(time.Duration(c.IntN(60)) * time.Minute)
		err = c.Sweep(ctx)
	}
	return err
}

func (c *changer) refreshOrRevoke(ctx context.Context) (err error) {
	if len(c.tokens) == 0 {
		return fault.New(fault.NotFound, "there is no token")
	}
	k := &c.tokens[c.IntN(len(c.tokens))]
	if c.IntN(3) == 0 {
		return c.In(control.System(), k.organization).RevokeToken(ctx, k.ID)
	}
	again, password, _, err := c.RefreshToken(ctx, home, k.ID, k.password)
	if err == nil {
		k.Token, k.password = again, password
	}
	return err
}

// checkTokens tries every token: it opens its organization as long as it was neither revoked nor has ended.
func (c *changer) checkTokens(ctx context.Context) (open int) {
	c.t.Helper()
	a := access.NewAuthenticator(c.directory, access.AuthConfig{Failures: -1, Now: func() time.Time { return c.now }})
	for _, k := range c.tokens {
		now, err := c.In(control.System(), k.organization).Token(ctx, k.ID)
		o, _ := c.directory.Organization(k.organization)
		want := err == nil && o != nil && !o.Disabled && now.RevokedAt.IsZero() && c.now.Before(k.ExpiresAt)
		_, err = a.Login(ctx, access.Login{Username: []byte(k.User + "@" + k.organization), Password: []byte(k.password), HasPassword: true})
		if (err == nil) != want {
			c.t.Fatalf("%+v: log-in %v, want %v", now, err, want)
		}
		if want {
			open++
		}
	}
	return open
}

// TestRandomChanges makes random changes and compares the directory with the file now and then.
func TestRandomChanges(t *testing.T) {
	f := fresh(t)
	c := &changer{
		fixture: f, Rand: rand.New(rand.NewPCG(1, 2)),
		sets: make(map[string][]string), keys: make(map[string][]string), rules: make(map[string][]string),
	}
	done, open := 0, 0
	for step := range 600 {
		err := c.change(t.Context())
		if fault.CodeOf(err) == fault.Internal {
			t.Fatalf("step %d: %v", step, err)
		}
		if err == nil {
			done++
		}
		if step%50 == 49 {
			f.checkDirectory()
			open += c.checkTokens(t.Context())
		}
	}
	if done < 150 || open < 15 || len(f.changes) < 100 {
		t.Errorf("only %d changes were made, %d tokens were open", done, open)
	}
	last := map[string]uint64{}
	for _, c := range f.changes {
		if c.Revision <= last[c.Organization] {
			t.Fatalf("revision %d of %s after %d", c.Revision, c.Organization, last[c.Organization])
		}
		last[c.Organization] = c.Revision
	}
}

func TestConcurrentChanges(t *testing.T) {
	f := fresh(t)
	organizations := []*control.Organization{f.organization("a"), f.organization("b")}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			o := organizations[i%2]
			for j := range 10 {
				name := fmt.Sprintf("u-%d-%d", i, j)
				if _, _, err := o.CreateUser(context.Background(), control.NewUser{Name: name}); err != nil {
					t.Error(err)
				}
				if _, err := o.User(context.Background(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(f.changes) != 42 {
		t.Errorf("%d changes", len(f.changes))
	}
	f.checkDirectory()
}
