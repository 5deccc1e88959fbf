package topic

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

var sentinels = []error{ErrEmpty, ErrUTF8, ErrNUL, ErrWildcard, ErrShare, ErrTooLong, ErrTooDeep}

// checkError wants err to be the one sentinel want (nil: no error), and a sentence.
func checkError(t *testing.T, what string, err, want error) {
	t.Helper()
	for _, s := range sentinels {
		if errors.Is(err, s) != (s == want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
			return
		}
	}
	if (err == nil) != (want == nil) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestCheckName(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
	}{
		{"a", nil},
		{"/", nil},
		{"/a", nil},
		{"a/", nil},
		{"a//b", nil},
		{"//", nil}, // empty levels are levels
		{"sport/tennis/player1", nil},
		{"a b", nil},
		{"a.b", nil},
		{"*", nil},
		{">", nil},
		{"\ufeffa", nil},
		{"Ünï/ço∂é/😀", nil}, // [MQTT-1.5.4-3]
		{"$SYS/x", nil},
		{"$", nil},
		{"$share/g/a", nil},
		{"", ErrEmpty}, // [MQTT-4.7.3-1]
		{"a\x00b", ErrNUL},
		{"\x00", ErrNUL}, // [MQTT-4.7.3-2]
		{"\xff", ErrUTF8},
		{"\xed\xa0\x80", ErrUTF8},
		{"a/\xc3", ErrUTF8}, // [MQTT-1.5.4-1]: also a surrogate
		{"+", ErrWildcard},
		{"#", ErrWildcard},
		{"a/+", ErrWildcard},
		{"a/#", ErrWildcard},
		{"a+b", ErrWildcard},
		{"a#", ErrWildcard}, // [MQTT-4.7.0-1]
		{"$share/g/#", ErrWildcard},
		{strings.Repeat("a", 4096), nil},
		{strings.Repeat("a", 4097), ErrTooLong}, // [MQTT-4.7.3-3] allows 65,535
		{strings.Repeat("/", 63), nil},
		{strings.Repeat("/", 64), ErrTooDeep},
		{strings.Repeat("a", 4097) + "#", ErrWildcard}, // malformed comes before too long
		{strings.Repeat("/", 64) + "+", ErrWildcard},
	} {
		checkError(t, c.name, CheckName(c.name, Limits{}), c.want)
		checkError(t, c.name, CheckName([]byte(c.name), Limits{}), c.want)
	}
}

func TestCheckFilter(t *testing.T) {
	for _, c := range []struct {
		filter string
		want   error
	}{
		{"a", nil},
		{"/", nil},
		{"a//b", nil},
		{"$SYS/#", nil},
		{"$SYS/+/x", nil},
		{"", ErrEmpty},
		{"a\x00", ErrNUL},
		{"\xff", ErrUTF8},
		// [MQTT-4.7.1-1]
		{"#", nil},
		{"/#", nil},
		{"a/#", nil},
		{"sport/tennis/#", nil},
		{"a#", ErrWildcard},
		{"sport/tennis#", ErrWildcard},
		{"#/", ErrWildcard},
		{"#/a", ErrWildcard},
		{"a/#/b", ErrWildcard},
		{"sport/tennis/#/ranking", ErrWildcard},
		{"##", ErrWildcard},
		{"a/##", ErrWildcard},
		{"#/#", ErrWildcard},
		{"#a", ErrWildcard},
		{"+#", ErrWildcard},
		// [MQTT-4.7.1-2]
		{"+", nil},
		{"/+", nil},
		{"+/", nil},
		{"+/+", nil},
		{"a/+/b", nil},
		{"+/tennis/#", nil},
		{"+/#", nil},
		{"a/+", nil},
		{"sport+", ErrWildcard},
		{"+a", ErrWildcard},
		{"a/b+/c", ErrWildcard},
		{"a/+b/c", ErrWildcard},
		{"++", ErrWildcard},
		{"+/++", ErrWildcard},
		{"a/b+", ErrWildcard},
		// [MQTT-4.8.2-1], [MQTT-4.8.2-2]
		{"$share/g/a", nil},
		{"$share/g/#", nil},
		{"$share/g/+/a", nil},
		{"$share/g//", nil},
		{"$share/g//a", nil},
		{"$share/$g/$SYS/a", nil},
		{"$share/g/$share/h/x", nil},
		{"$share", nil},
		{"$shared/g", nil},
		{"$SHARE/", nil},
		{"/$share/", nil}, // not shared
		{"$share/", ErrShare},
		{"$share//", ErrShare},
		{"$share//a", ErrShare},
		{"$share/g", ErrShare},
		{"$share/g/", ErrShare},
		{"$share/+/a", ErrShare},
		{"$share/#/a", ErrShare},
		{"$share/g+/a", ErrShare},
		{"$share/g#/a", ErrShare},
		{"$share/#", ErrShare},
		{"$share/+", ErrShare},
		{"$share/g/a#", ErrWildcard},
		{"$share/g/#/a", ErrWildcard},
		{"$share/g/a+", ErrWildcard},
		{"$share/g\x00/a", ErrNUL},
		// limits are for the whole string
		{strings.Repeat("a", 4096), nil},
		{strings.Repeat("a", 4097), ErrTooLong},
		{"$share/g/" + strings.Repeat("a", 4087), nil},
		{"$share/g/" + strings.Repeat("a", 4088), ErrTooLong},
		{strings.Repeat("+/", 63) + "#", nil},
		{strings.Repeat("+/", 64) + "#", ErrTooDeep},
		{"$share/g/" + strings.Repeat("+/", 61) + "#", nil},
		{"$share/g/" + strings.Repeat("+/", 62) + "#", ErrTooDeep},
		{strings.Repeat("a", 5000) + "#", ErrWildcard},
	} {
		checkError(t, c.filter, CheckFilter(c.filter, Limits{}), c.want)
		checkError(t, c.filter, CheckFilter([]byte(c.filter), Limits{}), c.want)
	}
}

func TestLimits(t *testing.T) {
	l := Limits{Bytes: 5, Levels: 2}
	for _, c := range []struct {
		topic string
		want  error
	}{{"a/bcd", nil}, {"a/bcde", ErrTooLong}, {"a/b/c", ErrTooDeep}, {"ab/c/de", ErrTooLong}} {
		checkError(t, c.topic, CheckName(c.topic, l), c.want)
		checkError(t, c.topic, CheckFilter(c.topic, l), c.want)
	}
	checkError(t, "wide", CheckName(strings.Repeat("/", 65535), Limits{Bytes: 1 << 16, Levels: 1 << 16}), nil)
}

func TestSplitShare(t *testing.T) {
	for _, c := range []struct {
		filter, group, rest string
		shared              bool
		want                error
	}{
		{"$share/g/a/#", "g", "a/#", true, nil},
		{"$share/g//", "g", "/", true, nil},
		{"$share/g/$SYS/a", "g", "$SYS/a", true, nil},
		{"a/b", "", "a/b", false, nil},
		{"$share", "", "$share", false, nil},
		{"$SYS/a", "", "$SYS/a", false, nil},
		{"", "", "", false, nil},
		{"$share/", "", "", true, ErrShare},
		{"$share//a", "", "", true, ErrShare},
		{"$share/g", "", "", true, ErrShare},
		{"$share/g/", "", "", true, ErrShare},
		{"$share/+/a", "", "", true, ErrShare},
		{"$share/a#b/a", "", "", true, ErrShare},
	} {
		group, rest, shared, err := SplitShare(c.filter)
		checkError(t, c.filter, err, c.want)
		if group != c.group || rest != c.rest || shared != c.shared {
			t.Errorf("%s: got %q, %q, %v", c.filter, group, rest, shared)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, name  string
		match, covers bool
	}{
		// the examples of 4.7.1.2 and 4.7.1.3
		{"sport/tennis/player1/#", "sport/tennis/player1", true, true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true, true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true, true},
		{"sport/#", "sport", true, true},
		{"#", "a", true, true},
		{"#", "/", true, true},
		{"#", "a/b/c", true, true},
		{"sport/tennis/+", "sport/tennis/player1", true, true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false, false},
		{"sport/+", "sport", false, false},
		{"sport/+", "sport/", true, true},
		{"+/+", "/finance", true, true},
		{"/+", "/finance", true, true},
		{"+", "/finance", false, false},
		// [MQTT-4.7.2-1]
		{"#", "$SYS/a", false, true},
		{"+/a", "$SYS/a", false, true},
		{"+/#", "$SYS/a", false, true},
		{"+", "$SYS", false, true},
		{"#", "$", false, true},
		{"$SYS/#", "$SYS/a", true, true},
		{"$SYS/#", "$SYS", true, true},
		{"$SYS/+", "$SYS/a", true, true},
		{"$SYS/a", "$SYS/a", true, true},
		{"a/+", "a/$b", true, true},
		{"a/#", "a/$b", true, true},
		{"+/$b", "a/$b", true, true},
		{"#", "/$b", true, true},
		{"/+", "/$b", true, true},
		// [MQTT-4.7.3-4]: nothing is normalised, and case counts
		{"/a", "a", false, false},
		{"a", "/a", false, false},
		{"a", "a/", false, false},
		{"a/", "a", false, false},
		{"a/b", "a//b", false, false},
		{"a//b", "a//b", true, true},
		{"A", "a", false, false},
		{"a ", "a", false, false},
		{"*", "a", false, false},
		{">", "a", false, false},
		{"a.b", "a/b", false, false},
		{"\u00e9", "e\u0301", false, false},
		{"\ufeffa", "a", false, false},
		{"+/b", "/b", true, true},
		{"a/+/b", "a//b", true, true},
		{"a/#", "a/", true, true},
		{"/#", "/", true, true},
		{"/#", "a", false, false},
		{"a/#", "ab", false, false},
		{"a/+/#", "a", false, false},
		{"a/+/#", "a/b", true, true},
		{"ab", "a", false, false},
		{"a", "ab", false, false},
	} {
		if got := Match(c.filter, c.name); got != c.match {
			t.Errorf("Match(%q, %q) = %v", c.filter, c.name, got)
		}
		if got := Match([]byte(c.filter), []byte(c.name)); got != c.match {
			t.Errorf("Match of bytes (%q, %q) = %v", c.filter, c.name, got)
		}
		if got := Covers(c.filter, []byte(c.name)); got != c.covers {
			t.Errorf("Covers(%q, %q) = %v", c.filter, c.name, got)
		}
	}
}

func TestContainsOverlaps(t *testing.T) {
	for _, c := range []struct {
		a, b          string
		aInB, bInA, o bool
	}{
		{"a/#", "a", false, true, true},
		{"a/#", "a/+", false, true, true},
		{"a/#", "a/b/#", false, true, true},
		{"+", "#", true, false, true},
		{"a/+", "a/#", true, false, true},
		{"+/#", "#", true, true, true},
		{"#", "#", true, true, true},
		{"+/+/#", "#", true, false, true},
		{"+/+/#", "+", false, false, false},
		{"a/+", "+/b", false, false, true},
		{"a/b", "a/c", false, false, false},
		{"a/#", "b/#", false, false, false},
		{"/+", "+", false, false, false},
		{"/#", "+", false, false, false},
		{"/#", "/+/#", true, true, true},
		{"a/+/#", "a/#", true, false, true},
		{"a/+/#", "a", false, false, false},
		{"+/b/#", "a/+", false, false, true},
		{"$SYS/#", "#", true, false, true},
		{"a/#", "a/#", true, true, true},
		{"a", "a/b", false, false, false},
		{"a/", "a", false, false, false},
		{"+/a", "+/b", false, false, false},
	} {
		if Contains(c.b, c.a) != c.aInB || Contains(c.a, c.b) != c.bInA {
			t.Errorf("%q and %q: contained %v and %v", c.a, c.b, Contains(c.b, c.a), Contains(c.a, c.b))
		}
		if Overlaps(c.a, c.b) != c.o || Overlaps(c.b, c.a) != c.o {
			t.Errorf("%q and %q: overlap is not %v", c.a, c.b, c.o)
		}
	}
}

// all returns every text of 1 to depth levels out of levels, but not the empty one; tail adds those that end in it.
func all(levels []string, depth int, tail string) []string {
	var texts []string
	before := []string{""} // everything of one level less, with a slash after it
	for range depth {
		var next []string
		for _, b := range before {
			for _, l := range levels {
				if b+l != "" {
					texts = append(texts, b+l)
				}
				next = append(next, b+l+"/")
			}
			if tail != "" {
				texts = append(texts, b+tail)
			}
		}
		before = next
	}
	return texts
}

// plain are the levels that the exhaustive tests build names from.
var plain = []string{"a", "b", "", "$x"}

func allNames(depth int) []string { return all(plain, depth, "") }

func allFilters(depth int) []string { return all(append([]string{"+"}, plain...), depth, "#") }

// TestMatchExhaustive compares Match and Covers with regular expressions, for all filters of up to 3 levels and names of up to 4.
func TestMatchExhaustive(t *testing.T) {
	names := allNames(4)
	for _, f := range allFilters(3) {
		expr := regexp.QuoteMeta(f)
		expr = strings.ReplaceAll(expr, `\+`, `[^/]*`)
		if f == "#" {
			expr = `.*`
		} else if head, ok := strings.CutSuffix(expr, "/#"); ok {
			expr = head + `(/.*)?`
		}
		re := regexp.MustCompile("^" + expr + "$")
		checkError(t, f, CheckFilter(f, Limits{}), nil)
		for _, n := range names {
			want := re.MatchString(n)
			if Covers(f, n) != want {
				t.Fatalf("Covers(%q, %q) is not %v", f, n, want)
			}
			want = want && (n[0] != '$' || f[0] == '$')
			if Match(f, n) != want {
				t.Fatalf("Match(%q, %q) is not %v", f, n, want)
			}
		}
	}
}

// TestContainsOverlapsExhaustive proves both for all pairs of filters of up to 4 levels, by the set of names that each
// covers. Names of 5 levels are enough to tell "#" from any "+", and of the levels "b" is to be had for whatever "a" is not.
func TestContainsOverlapsExhaustive(t *testing.T) {
	depth := 4
	if testing.Short() {
		depth = 3
	}
	names, filters := allNames(depth+1), allFilters(depth)
	sets := make([][]uint64, len(filters))
	for i, f := range filters {
		sets[i] = make([]uint64, (len(names)+63)/64)
		for j, n := range names {
			if Covers(f, n) {
				sets[i][j/64] |= 1 << (j % 64)
			}
		}
	}
	for i, a := range filters {
		for j, b := range filters {
			contains, overlaps := true, false
			for k := range sets[i] {
				contains = contains && sets[j][k]&^sets[i][k] == 0
				overlaps = overlaps || sets[j][k]&sets[i][k] != 0
			}
			if Contains(a, b) != contains {
				t.Fatalf("Contains(%q, %q) is not %v", a, b, contains)
			}
			if Overlaps(a, b) != overlaps {
				t.Fatalf("Overlaps(%q, %q) is not %v", a, b, overlaps)
			}
		}
	}
}
