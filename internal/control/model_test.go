package control_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

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
}

func (c *changer) pick(of []string) string {
	if len(of) == 0 || c.IntN(10) == 0 {
		return "none"
	}
	return of[c.IntN(len(of))]
}

func (c *changer) name() string { return fmt.Sprintf("u%d", c.IntN(6)) }

func (c *changer) rules() (rules []access.Rule) {
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
	switch c.IntN(16) {
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
		_, err = o.Update(ctx, control.OrganizationUpdate{Disabled: &off})
		_, err = o.SetLimits(ctx, control.LimitsUpdate{MaxConnections: &connections})
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
		n := control.NewRuleSet{Name: fmt.Sprintf("s%d", c.IntN(5)), Default: c.IntN(3) == 0, Rules: c.rules()}
		if set, err = o.CreateRuleSet(ctx, n); err == nil {
			c.sets[id] = append(c.sets[id], set.ID)
		}
	case 12:
		_, err = o.ReplaceRules(ctx, c.pick(c.sets[id]), c.rules())
	case 13:
		if err = makeDefault(ctx, o, c.pick(c.sets[id])); c.IntN(3) == 0 {
			err = o.DeleteRuleSet(ctx, c.pick(c.sets[id]))
		}
	case 14:
		var key control.Key
		if key, _, err = o.CreateKey(ctx, control.NewKey{Kind: access.SecretKey, Name: "k"}); err == nil {
			c.keys[id] = append(c.keys[id], key.ID)
		}
	case 15:
		err = o.RevokeKey(ctx, c.pick(c.keys[id]))
	}
	return err
}

// TestRandomChanges makes random changes and compares the directory with the file now and then.
func TestRandomChanges(t *testing.T) {
	f := fresh(t)
	c := &changer{fixture: f, Rand: rand.New(rand.NewPCG(1, 2)), sets: make(map[string][]string), keys: make(map[string][]string)}
	done := 0
	for step := range 400 {
		err := c.change(t.Context())
		if fault.CodeOf(err) == fault.Internal {
			t.Fatalf("step %d: %v", step, err)
		}
		if err == nil {
			done++
		}
		if step%20 == 19 {
			f.checkDirectory()
		}
	}
	if done < 100 || len(f.changes) < 100 {
		t.Errorf("only %d changes were made", done)
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
