package access

import (
	"bytes"
	"crypto/rand"
	"errors"
	"regexp"
	"strings"
	"testing"

	"cloudsignal/internal/fault"
)

func TestMadePassword(t *testing.T) {
	password, hash, err := NewPassword(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^pw_[a-z2-7]{33}$`).MatchString(password) {
		t.Errorf("password %q", password)
	}
	if !strings.HasPrefix(hash, kindMade) || strings.Contains(hash, password[3:]) {
		t.Errorf("hash %q", hash)
	}
	checkVerify(t, hash, password)
	other, again, err := NewPassword(rand.Reader)
	if err != nil || other == password || again == hash {
		t.Errorf("the same twice: %v", err)
	}
}

func TestChosenPassword(t *testing.T) {
	hash, err := HashChosen(rand.Reader, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash %q", hash)
	}
	checkVerify(t, hash, "correct horse")
	if again, err := HashChosen(rand.Reader, "correct horse"); err != nil || again == hash {
		t.Errorf("the same hash twice: %v", err)
	}
	for _, bad := range []string{"", "1234567", "äääääää", strings.Repeat("a", MaxPassword+1), "12345678\xff"} {
		if _, err := HashChosen(rand.Reader, bad); fieldOf(err) != "password" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func checkVerify(t *testing.T, hash, password string) {
	t.Helper()
	salt := strings.LastIndexByte(hash, '$') - 2 // the last but one character before it: all of its bits count
	other := []byte(hash)
	if other[salt] = 'A'; hash[salt] == 'A' {
		other[salt] = 'B'
	}
	if ok, err := Verify(string(other), []byte(password)); ok || err != nil {
		t.Errorf("with another salt: %v, %v", ok, err)
	}
	if ok, err := Verify(hash, []byte(password)); !ok || err != nil {
		t.Errorf("the password is refused: %v", err)
	}
	for _, wrong := range []string{"", password[1:], password + "x", strings.ToUpper(password), hash, strings.Repeat("a", 70_000)} {
		if ok, err := Verify(hash, []byte(wrong)); ok || err != nil {
			t.Errorf("%.80q: %v %v", wrong, ok, err)
		}
	}
}

func TestDamagedHashes(t *testing.T) {
	chosen, err := hashChosen(rand.Reader, "correct horse", cheap)
	if err != nil {
		t.Fatal(err)
	}
	_, made, err := NewPassword(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, hash := range []string{
		"", "$", "plain", "$md5$x$y", made[:len(made)-1], strings.Replace(made, "sha256", "sha512", 1), made + "$", kindMade + "$",
		kindMade + "a",
		chosen[:len(chosen)-2], strings.Replace(chosen, "v=19", "v=16", 1), strings.Replace(chosen, "m=8", "m=0", 1),
		strings.Replace(chosen, "m=8", "m=4294967295", 1),
		strings.Replace(chosen, "t=1", "t=0", 1), strings.Replace(chosen, "t=1", "t=99", 1), strings.Replace(chosen, "p=1", "p=0", 1),
		kindChosen, kindChosen + "v=19$",
	} {
		if ok, err := Verify(hash, []byte("correct horse")); ok || err == nil {
			t.Errorf("%q: %v %v", hash, ok, err)
		} else if strings.Contains(err.Error(), "$") {
			t.Errorf("the error shows the hash: %v", err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	chosen, _ := hashChosen(bytes.NewReader(make([]byte, 64)), "correct horse", cheap)
	_, made, _ := NewPassword(bytes.NewReader(make([]byte, 64)))
	f.Add(chosen, "correct horse")
	f.Add(made, "pw_")
	f.Fuzz(func(t *testing.T, hash, password string) {
		if strings.Contains(hash, "$m=") && !strings.Contains(hash, "$m=8,t=1,p=1$") {
			return // slow ones
		}
		if ok, err := Verify(hash, []byte(password)); ok && err != nil {
			t.Error("right and an error")
		}
	})
}

func TestKeys(t *testing.T) {
	for _, kind := range []KeyKind{SecretKey, PublishableKey, RestrictedKey, LegacyKey} {
		key, err := NewKey(rand.Reader, kind)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^` + string(kind) + `_[a-z2-7]{39}$`).MatchString(key) {
			t.Errorf("key %q", key)
		}
		if got, err := ParseKey(key); err != nil || got != kind {
			t.Errorf("ParseKey(%q) = %v, %v", key, got, err)
		}
		if got, want := Mask(key), string(kind)+"_..."+key[len(key)-4:]; got != want {
			t.Errorf("Mask = %q, want %q", got, want)
		}
		for i := range len(key) { // any one changed character
			bad := []byte(key)
			if bad[i]++; strings.IndexByte(digits32, bad[i]) < 0 {
				bad[i] = 'a'
			}
			if string(bad) == key {
				bad[i] = 'b'
			}
			if _, err := ParseKey(string(bad)); fault.CodeOf(err) != fault.Unauthorized {
				t.Errorf("%q for %q: %v", bad, key, err)
			}
		}
		h := HashKey(key)
		if back, err := ParseKeyHash(h.String()); err != nil || back != h {
			t.Errorf("hash %s: %v", h, err)
		}
	}
	for _, bad := range []string{
		"", "sk_", "sk", "_", "xx_" + strings.Repeat("a", 39), strings.Repeat("a", 42), strings.Repeat("_", 42),
		"sk_" + strings.Repeat("é", 39),
	} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
		if got := Mask(bad); strings.Contains(got, "aaaaa") {
			t.Errorf("Mask(%q) = %q", bad, got)
		}
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if _, err := ParseKeyHash(bad); err == nil {
			t.Errorf("%q is a hash", bad)
		}
	}
}

func FuzzKey(f *testing.F) {
	key, _ := NewKey(bytes.NewReader(make([]byte, 64)), SecretKey)
	f.Add(key)
	f.Add("pk_x")
	f.Fuzz(func(t *testing.T, s string) {
		Mask(s)
		if kind, err := ParseKey(s); err == nil && (!strings.HasPrefix(s, string(kind)+"_") || len(s) != 42) {
			t.Errorf("%q is a key", s)
		}
	})
}

func TestNewOrganizationID(t *testing.T) {
	seen := make(map[string]bool)
	digits := make(map[byte]int)
	for range 1000 {
		id, uuid, err := NewOrganizationID(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !isOrganizationID(id) || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(uuid) {
			t.Fatalf("%q, %q", id, uuid)
		}
		if seen[id] || seen[uuid] {
			t.Fatal("the same twice")
		}
		seen[id], seen[uuid] = true, true
		for i := range organizationDigits {
			digits[id[len(organizationPrefix)+i]]++
		}
	}
	for c, n := range digits { // 12,000 over 36: 333 each, standard deviation 18
		if n < 220 || n > 450 {
			t.Errorf("%c comes %d times", c, n)
		}
	}
	// 252 to 255 are left out, whatever comes after.
	id, err := NewID(bytes.NewReader(append(bytes.Repeat([]byte{255}, 12), make([]byte, 12)...)), "x_")
	if err != nil || id != "x_aaaaaaaaaaaa" {
		t.Errorf("%q, %v", id, err)
	}
}

func TestNoRandomness(t *testing.T) {
	empty := bytes.NewReader(nil)
	_, _, e1 := NewPassword(empty)
	_, e2 := HashChosen(empty, "correct horse")
	_, e3 := NewKey(empty, SecretKey)
	_, _, e4 := NewOrganizationID(empty)
	if err := errors.Join(e1, e2, e3, e4); e1 == nil || e2 == nil || e3 == nil || e4 == nil {
		t.Errorf("made without randomness: %v", err)
	}
}
