package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// attack makes one wrong guess from each of many addresses.
func (f *fixture) attack(username string, from, n int) (reasons map[string]int) {
	reasons = make(map[string]int)
	for i := range n {
		_, err := f.from(address(from+i), username, fmt.Sprint("wrong ", from+i))
		reasons[why(err)]++
	}
	return reasons
}

func TestUserFailures(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	if got := f.attack("chosen@"+orgA, 0, 50); got[WhyWrongPassword] != 50 {
		t.Fatalf("%v", got)
	}
	before := f.slow.Load()
	// From now on: who failed lately is refused at once, others are looked at one by one.
	if got := f.attack("chosen@"+orgA, 0, 50); got[WhyTooManyFailures] != 50 || f.slow.Load() != before {
		t.Fatalf("again from the same addresses: %v, %d verified", got, f.slow.Load()-before)
	}
	if got := f.attack("chosen@"+orgA, 1000, 50); got[WhyWrongPassword] != 1 || got[WhyTooManyFailures] != 49 || f.slow.Load() != before+1 {
		t.Fatalf("from others: %v, %d verified", got, f.slow.Load()-before)
	}
	// It is no other user's concern, nor another organization's.
	f.accepted("made@"+orgA, f.password["made@"+orgA])
	f.accepted("chosen@"+orgB, f.password["chosen@"+orgB])
	// The owner comes in from an address that has not failed, as soon as there is room, and then always.
	if _, err := f.login("chosen@"+orgA, f.password["chosen@"+orgA]); why(err) != WhyTooManyFailures {
		t.Fatalf("it is not the owner's turn: %v", err)
	}
	f.now = f.now.Add(2 * time.Second)
	f.accepted("chosen@"+orgA, f.password["chosen@"+orgA])
	f.now = f.now.Add(time.Second)
	if got := f.attack("chosen@"+orgA, 2000, 50); got[WhyWrongPassword] == 0 || got[WhyTooManyFailures] == 0 {
		t.Fatalf("%v", got)
	}
	f.accepted("chosen@"+orgA, f.password["chosen@"+orgA]) // from where it has logged in
	// A right guess from elsewhere is one among the guesses, or it would show at once.
	if _, err := f.from(address(3000), "chosen@"+orgA, f.password["chosen@"+orgA]); why(err) != WhyTooManyFailures {
		t.Fatalf("a right guess is not limited: %v", err)
	}
	// After a while all is as before.
	f.now = f.now.Add(3 * time.Minute)
	if got := f.attack("chosen@"+orgA, 0, 10); got[WhyWrongPassword] != 10 {
		t.Errorf("%v", got)
	}
}

// TestOwnerAmongGuesses: while many guess from ever new addresses, who has the password and comes from nowhere known gets in.
func TestOwnerAmongGuesses(t *testing.T) {
	f := newFixture(t, AuthConfig{})
	guesses := f.attack("chosen@"+orgA, 0, 50)
	tries, in := 0, false
	for i := 0; i < 20*120 && !in; i++ { // two minutes of 20 guesses a second
		f.now = f.now.Add(50 * time.Millisecond)
		for why, n := range f.attack("chosen@"+orgA, 1000+i, 1) {
			guesses[why] += n
		}
		if i%37 == 0 { // every other second
			tries++
			f.now = f.now.Add(20 * time.Millisecond)
			_, err := f.from(address(1<<20+i), "chosen@"+orgA, f.password["chosen@"+orgA])
			in = err == nil
		}
	}
	if !in || guesses[WhyTooManyFailures] == 0 {
		t.Errorf("the owner is locked out: %d tries, guesses %v", tries, guesses)
	}
}

// TestAttackDoesNotTellWhoIsThere: the same guesses at names of every kind get the same answers.
func TestAttackDoesNotTellWhoIsThere(t *testing.T) {
	k, password := TokenRecord{}, ""
	told := func(name string) (told []bool) {
		f := newFixture(t, AuthConfig{})
		k, password = f.token("tok_1", time.Minute)
		f.identity(orgA, k)
		for round := range 3 {
			for i := range 60 {
				_, err := f.from(address(i+round*30), name+"@"+orgA, fmt.Sprint("wrong ", i, round))
				told = append(told, why(err) == WhyTooManyFailures)
			}
			f.now = f.now.Add(300 * time.Millisecond)
		}
		for _, owner := range [][2]string{{"made", f.password["made@"+orgA]}, {ServerUser, f.password["sk@"+orgA]}, {tokenUser, password}} {
			if owner[0] == name {
				f.accepted(name+"@"+orgA, owner[1]) // never locked out
			}
		}
		return told
	}
	want := fmt.Sprint(told("chosen"))
	for _, name := range []string{"made", "off", "nobody", ServerUser, tokenUser, TokenUserPrefix + "nobody"} {
		if got := fmt.Sprint(told(name)); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}

func TestUserFailuresAreBounded(t *testing.T) {
	v := NewVerifier(AuthConfig{Now: func() time.Time { return time.Unix(1000, 0) }})
	for i := range maxFailureEntries + 1000 {
		try := v.attempt(address(i), orgA, fmt.Sprint("user", i))
		_ = try.refused(refuse(WhyUnknownUser))
		try.prove()
	}
	for _, n := range []int{len(v.origins.current), len(v.users.current), len(v.pairs.current), len(v.turns.next), len(v.proven.current)} {
		if n > maxFailureEntries {
			t.Errorf("%d entries", n)
		}
	}
}

func TestCheckOfMembers(t *testing.T) {
	now := time.Unix(1000, 0)
	v := NewVerifier(AuthConfig{Now: func() time.Time { return now }, UserFailures: 3})
	hash, err := hashChosen(rand.Reader, chosen, cheap)
	if err != nil {
		t.Fatal(err)
	}
	check := func(from int, name, hash, password, want string) {
		t.Helper()
		if err := v.Check(t.Context(), address(from), "members", name, hash, []byte(password)); why(err) != want {
			t.Errorf("%s from %d: %v, want %s", name, from, err, want)
		}
	}
	check(1, "ana", hash, chosen, "<nil>")
	for i := range 3 {
		check(i, "ana", hash, "wrong", WhyWrongPassword)
		check(i, "bob", "", "wrong", WhyUnknownUser)
	}
	check(2, "ana", hash, "wrong", WhyTooManyFailures)
	check(2, "bob", "", "wrong", WhyTooManyFailures)
	check(2, "ana", hash, chosen, WhyTooManyFailures)
	check(1, "ana", hash, chosen, "<nil>") // where she has logged in before
	if err := v.Check(t.Context(), address(9), "members", "ana", "?", []byte("x")); err == nil {
		t.Error("a damaged hash is right")
	} else if _, refused := errors.AsType[*Refusal](err); refused {
		t.Error("a damaged hash is somebody's failure")
	}
}

func TestHashInThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := NewVerifier(AuthConfig{Workers: 1, Queue: 1})
		v.pool.slots <- struct{}{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := v.Hash(ctx, rand.Reader, "members", chosen)
			done <- err
		}()
		synctest.Wait()
		if _, err := v.Hash(t.Context(), rand.Reader, "members", chosen); why(err) != WhyBusy {
			t.Error(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-v.pool.slots
		hash, err := v.Hash(t.Context(), rand.Reader, "members", chosen)
		if ok, bad := Verify(hash, []byte(chosen)); err != nil || bad != nil || !ok {
			t.Errorf("%q, %v", hash, err)
		}
	})
	if _, err := NewVerifier(AuthConfig{}).Hash(t.Context(), rand.Reader, "members", "short"); fieldOf(err) != "password" {
		t.Error(err)
	}
}

// TestSharedVerifier: what one user of it remembers, the others do.
func TestSharedVerifier(t *testing.T) {
	v := NewVerifier(AuthConfig{})
	f := newFixture(t, AuthConfig{Verifier: v})
	if f.a.verifier != v {
		t.Error("it has another one")
	}
	used := ""
	f.a.keyUsed = func(organization, key string) { used = organization + " " + key }
	f.accepted("server@"+orgA, f.password["sk@"+orgA])
	if used != orgA+" key_sk" {
		t.Errorf("used %q", used)
	}
}
