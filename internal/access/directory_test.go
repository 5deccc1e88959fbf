package access

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestUpdateIsPut makes random changes by Update, and compares with a directory that is filled anew.
func TestUpdateIsPut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDirectory()
		r := OrganizationRecord{ID: orgA, UUID: uuidA, Number: 1, Users: map[string]UserRecord{}, Identities: map[string]IdentityRecord{}}
		if d.Update(Update{ID: orgA}) {
			t.Fatal("updates what is not there")
		}
		d.Put(r)
		name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			r.Revision++
			r.Disabled = rapid.Bool().Draw(t, "disabled")
			r.Limits.MaxConnections = rapid.IntRange(0, 3).Draw(t, "limit")
			u := Update{
				ID: orgA, Revision: r.Revision, Disabled: r.Disabled, Limits: r.Limits,
				Users: map[string]*UserRecord{}, Identities: map[string]*IdentityRecord{},
			}
			n := name.Draw(t, "name")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				v := UserRecord{PasswordHash: fmt.Sprint(r.Revision)}
				u.Users[n], r.Users[n] = &v, v
			case 1:
				u.Users[n] = nil
				delete(r.Users, n)
			case 2:
				v := IdentityRecord{Tokens: make([]TokenRecord, rapid.IntRange(0, 3).Draw(t, "tokens"))}
				u.Identities[n], r.Identities[n] = &v, v
			case 3:
				u.Identities[n] = nil
				delete(r.Identities, n)
			case 4:
				r.RuleSets = []RuleSet{{ID: n, Default: true, Rules: []Rule{allow("%", n, PermitBoth)}}}
				u.RuleSets = &r.RuleSets
			case 5:
				r.Keys = nil
				for i := range rapid.IntRange(0, 3).Draw(t, "keys") {
					r.Keys = append(r.Keys, KeyRecord{ID: fmt.Sprint(i), Hash: KeyHash{byte(r.Revision), byte(i)}})
				}
				u.Keys = &r.Keys
			}
			if !d.Update(u) {
				t.Fatal("nothing is there")
			}
			compare(t, d, r)
		}
	})
}

func compare(t *rapid.T, d *Directory, want OrganizationRecord) {
	fresh := NewDirectory()
	fresh.Put(want)
	got, _ := d.Whole(uuidA)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwant %+v", got, want)
	}
	if !reflect.DeepEqual(d.byKey, fresh.byKey) {
		t.Fatalf("keys %v, want %v", d.byKey, fresh.byKey)
	}
	o, f := d.find(orgA), fresh.find(orgA)
	if o != d.findNumber(1) || o.tokens != f.tokens || !reflect.DeepEqual(o.sets, f.sets) || !reflect.DeepEqual(o.standard, f.standard) ||
		o.hasRules != f.hasRules || !reflect.DeepEqual(o.keys, f.keys) || !reflect.DeepEqual(o.keysByID, f.keysByID) {
		t.Fatalf("%+v\nwant %+v", o, f)
	}
	if n, k := d.Tokens(orgA); n != len(want.Identities) || k != f.tokens || d.Users(orgA) != len(want.Users) {
		t.Fatalf("%d identities, %d tokens", n, k)
	}
}

// BenchmarkUpdate gives one of many identities another token.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		d := NewDirectory()
		r := OrganizationRecord{ID: orgA, Number: 1, Users: make(map[string]UserRecord), Identities: make(map[string]IdentityRecord)}
		for i := range n {
			r.Users[fmt.Sprint("user", i)] = UserRecord{PasswordHash: "x"}
			r.Identities[fmt.Sprint(TokenUserPrefix, i)] = IdentityRecord{Tokens: make([]TokenRecord, 1)}
		}
		d.Put(r)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Update(Update{ID: orgA, Identities: map[string]*IdentityRecord{
					fmt.Sprint(TokenUserPrefix, i%n): {Until: time.Unix(int64(i), 0), Tokens: make([]TokenRecord, 1)},
				}})
			}
		})
	}
}
