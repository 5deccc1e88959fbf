package access

import "strings"

// secretKinds are what may stand before the underscore of a secret.
var secretKinds = []KeyKind{SessionKey, TokenPassword, SecretKey, PublishableKey, RestrictedKey, LegacyKey, OperatorKey}

// Redact is s with everything in it that has the form of one of our secrets masked: keys, sessions and tokens by their checksum,
// passwords that the server made by their length. It is for what is logged, audited or repeated to a client. A text without an
// underscore costs one search for it.
func Redact(s string) string { return RedactStart(s, len(s)) }

// RedactStart is what Redact makes of the first most bytes of s. A secret that goes on behind them is masked as a whole. The time does
// not depend on what is further behind.
func RedactStart(s string, most int) string {
	most = min(most, len(s))
	s = s[:min(len(s), most+maxKey)]
	from, to := findSecret(s, 0)
	if to == 0 || from >= most {
		return s[:most]
	}
	var b strings.Builder
	at := 0
	for to > 0 && from < most {
		b.WriteString(s[at:from])
		if strings.HasPrefix(s[from:to], passwordTag) {
			b.WriteString(passwordTag + "...") // it has no checksum: every digit is secret
		} else {
			b.WriteString(Mask(s[from:to]))
		}
		at = to
		from, to = findSecret(s, at)
	}
	b.WriteString(s[at:max(at, most)])
	return b.String()
}

// HasSecret says whether something in s has the form of one of our secrets.
func HasSecret(s string) bool {
	_, to := findSecret(s, 0)
	return to > 0
}

// findSecret is where the first secret behind start begins and ends; an end of 0: there is none.
func findSecret(s string, start int) (from, to int) {
	for at := start; ; {
		i := strings.IndexByte(s[at:], '_')
		if i < 0 {
			return 0, 0
		}
		at += i + 1
		if at+secretDigits > len(s) {
			return 0, 0
		}
		if strings.HasSuffix(s[start:at], passwordTag) && are32(s[at:at+secretDigits]) {
			return at - len(passwordTag), at + secretDigits
		}
		end := at + secretDigits + checksumDigits
		if end > len(s) {
			continue
		}
		for _, k := range secretKinds {
			from = at - len(k) - 1
			if from < start || s[from:at-1] != string(k) {
				continue
			}
			if _, err := ParseKey(s[from:end]); err == nil {
				return from, end
			}
		}
	}
}

func are32(s string) bool {
	for i := range len(s) {
		if strings.IndexByte(digits32, s[i]) < 0 {
			return false
		}
	}
	return true
}
