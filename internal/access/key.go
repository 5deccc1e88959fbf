package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"cloudsignal/internal/fault"
)

// KeyKind is what an API key is for: the letters before its first underscore.
type KeyKind string

// Kinds of keys.
const (
	SecretKey      KeyKind = "sk" // everything inside the organization
	PublishableKey KeyKind = "pk" // may be shown to browsers
	RestrictedKey  KeyKind = "rk" // named scopes
	LegacyKey      KeyKind = "cs" // the old form of a secret key

	OperatorKey   KeyKind = "op"  // of the server's operator, of no organization
	SessionKey    KeyKind = "ses" // of a member who has logged in
	TokenPassword KeyKind = "tkn" // the password of a temporary token
)

// Full says whether a key of this kind may do everything inside its organization.
func (k KeyKind) Full() bool { return k == SecretKey || k == LegacyKey }

// A key is its kind, an underscore, 33 digits of secret and 6 of checksum. A digit is 5 bits.
const (
	secretDigits   = 33 // 165 bits
	checksumDigits = 6
	digits32       = "abcdefghijklmnopqrstuvwxyz234567"
	digits36       = "abcdefghijklmnopqrstuvwxyz0123456789"
	shownDigits    = 4  // of a masked key, all of the checksum
	maxKey         = 64 // bytes of what can be one
)

var errKey = fault.New(fault.Unauthorized, "this is not an API key; look for a missing or changed character")

// NewKey makes a key of 165 random bits. It is shown once; HashKey is what is kept.
func NewKey(rand io.Reader, kind KeyKind) (string, error) {
	body, err := randomText(rand, secretDigits)
	if err != nil {
		return "", err
	}
	key := string(kind) + "_" + body
	return key + checksum(key), nil
}

// ParseKey gives the kind of a well-formed key and refuses anything else, a wrong checksum too, so that a mistyped key
// costs no lookup.
func ParseKey(key string) (KeyKind, error) {
	kind, rest, ok := strings.Cut(key, "_")
	if !ok || len(rest) != secretDigits+checksumDigits {
		return "", errKey
	}
	k := KeyKind(kind)
	switch k {
	case SecretKey, PublishableKey, RestrictedKey, LegacyKey, OperatorKey, SessionKey, TokenPassword:
	default:
		return "", errKey
	}
	for i := range len(rest) {
		if strings.IndexByte(digits32, rest[i]) < 0 {
			return "", errKey
		}
	}
	end := len(key) - checksumDigits
	if subtle.ConstantTimeCompare([]byte(checksum(key[:end])), []byte(key[end:])) != 1 {
		return "", errKey
	}
	return k, nil
}

// KeyHash is what is kept of a key. A fast hash is enough for 165 random bits, and one without salt can be looked up.
type KeyHash [sha256.Size]byte

// HashKey is the hash of a key.
func HashKey(key string) KeyHash { return sha256.Sum256([]byte(key)) }

// String is the hash in hexadecimal digits.
func (h KeyHash) String() string { return hex.EncodeToString(h[:]) }

// ParseKeyHash reads what String wrote.
func ParseKeyHash(s string) (h KeyHash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("access: a stored key hash cannot be read")
	}
	copy(h[:], b)
	return h, nil
}

// Mask is what may be shown of a key later: sk_...x7m4.
func Mask(key string) string {
	kind, rest, ok := strings.Cut(key, "_")
	if !ok || len(rest) != secretDigits+checksumDigits {
		return "..."
	}
	return kind + "_..." + rest[len(rest)-shownDigits:]
}

func checksum(s string) string {
	sum := sha256.Sum256([]byte(s))
	out := make([]byte, checksumDigits)
	for i := range out {
		out[i] = digits32[sum[i]&31]
	}
	return string(out)
}

// NewID makes an identifier: a prefix and 12 random lower-case letters and digits, 62 bits.
func NewID(rand io.Reader, prefix string) (string, error) {
	out := make([]byte, 0, len(prefix)+organizationDigits)
	out = append(out, prefix...)
	for len(out) < cap(out) {
		b, err := randomBytes(rand, organizationDigits)
		if err != nil {
			return "", err
		}
		for _, c := range b {
			// 252 is the largest multiple of 36 in a byte: what lies above would make some digits likelier.
			if c < 252 && len(out) < cap(out) {
				out = append(out, digits36[c%36])
			}
		}
	}
	return string(out), nil
}

// NewOrganizationID makes an organization's id (org_k7xm4pqr2n5t) and the UUID (version 4) beside it.
func NewOrganizationID(rand io.Reader) (id, uuid string, err error) {
	if id, err = NewID(rand, organizationPrefix); err != nil {
		return "", "", err
	}
	b, err := randomBytes(rand, 16)
	if err != nil {
		return "", "", err
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return id, fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// randomText makes n digits of 5 random bits each.
func randomText(rand io.Reader, n int) (string, error) {
	b, err := randomBytes(rand, n)
	if err != nil {
		return "", err
	}
	for i := range b {
		b[i] = digits32[b[i]&31]
	}
	return string(b), nil
}

func randomBytes(rand io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("access: no randomness: %w", err)
	}
	return b, nil
}
