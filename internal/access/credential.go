package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"cloudsignal/internal/fault"
)

// Bounds of chosen passwords.
const (
	MinPassword = 8   // characters
	MaxPassword = 256 // bytes
)

// Encoded hashes, by the kind before the second $:
//
//	$sha256$SALT$HASH                       passwords the server made: nothing to guess, so a fast hash is enough
//	$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH  chosen passwords
//
// SALT and HASH are base64 without padding.
const (
	kindMade   = "$sha256$"
	kindChosen = "$argon2id$"

	saltBytes   = 16
	hashBytes   = 32
	passwordTag = "pw_"
)

// argon2id with 19 MiB, two passes and one lane is the least that OWASP recommends.
var chosenCost = cost{memory: 19 << 10, passes: 2, lanes: 1}

type cost struct {
	memory, passes uint32 // memory in KiB
	lanes          uint8
}

// What an encoded hash may ask for, so that a damaged one cannot take the server's memory.
const (
	maxArgonMemory = 1 << 18 // KiB
	maxArgonPasses = 16
	maxArgonLanes  = 16
)

var (
	errHash  = errors.New("access: a stored password hash cannot be read")
	encoding = base64.RawStdEncoding
)

// NewPassword makes a password of 165 random bits and its encoded hash, which is fast to verify.
func NewPassword(rand io.Reader) (password, hash string, err error) {
	body, err := randomText(rand, secretDigits)
	if err != nil {
		return "", "", err
	}
	salt, err := randomBytes(rand, saltBytes)
	if err != nil {
		return "", "", err
	}
	password = passwordTag + body
	return password, kindMade + encoding.EncodeToString(salt) + "$" + encoding.EncodeToString(hashMade(salt, []byte(password))), nil
}

// HashChosen is the encoded hash of a password that a person chose. It takes about 20 ms and 19 MiB.
func HashChosen(rand io.Reader, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	return hashChosen(rand, password, chosenCost)
}

func hashChosen(rand io.Reader, password string, c cost) (string, error) {
	salt, err := randomBytes(rand, saltBytes)
	if err != nil {
		return "", err
	}
	sum := argon2.IDKey([]byte(password), salt, c.passes, c.memory, c.lanes, hashBytes)
	return fmt.Sprintf("%sv=%d$m=%d,t=%d,p=%d$%s$%s", kindChosen, argon2.Version, c.memory, c.passes, c.lanes,
		encoding.EncodeToString(salt), encoding.EncodeToString(sum)), nil
}

// CheckPassword judges a password that a person chose. Field is password.
func CheckPassword(password string) error {
	switch {
	case utf8.RuneCountInString(password) < MinPassword:
		return fault.Field("password", "must have at least %d characters", MinPassword)
	case len(password) > MaxPassword:
		return fault.Field("password", "at most %d bytes are possible", MaxPassword)
	case !utf8.ValidString(password):
		return fault.Field("password", "must be UTF-8")
	}
	return nil
}

// Verify says whether password is the one of an encoded hash, in a time that does not depend on how much of it is right.
// For a chosen password it takes as long as HashChosen. The error is about the hash.
func Verify(hash string, password []byte) (bool, error) {
	if rest, ok := strings.CutPrefix(hash, kindMade); ok {
		salt, want, err := decodeHash(rest)
		if err != nil {
			return false, err
		}
		return subtle.ConstantTimeCompare(hashMade(salt, password), want) == 1, nil
	}
	rest, ok := strings.CutPrefix(hash, kindChosen)
	if !ok {
		return false, errHash
	}
	parameters, rest, _ := strings.Cut(rest, "$")
	var version int
	if _, err := fmt.Sscanf(parameters, "v=%d", &version); err != nil || version != argon2.Version {
		return false, errHash
	}
	parameters, rest, _ = strings.Cut(rest, "$")
	var c cost
	if _, err := fmt.Sscanf(parameters, "m=%d,t=%d,p=%d", &c.memory, &c.passes, &c.lanes); err != nil {
		return false, errHash
	}
	if c.memory == 0 || c.memory > maxArgonMemory || c.passes == 0 || c.passes > maxArgonPasses || c.lanes == 0 || c.lanes > maxArgonLanes {
		return false, errHash
	}
	salt, want, err := decodeHash(rest)
	if err != nil || len(password) > MaxPassword { // no longer one was ever accepted
		return false, err
	}
	return subtle.ConstantTimeCompare(argon2.IDKey(password, salt, c.passes, c.memory, c.lanes, hashBytes), want) == 1, nil
}

func hashMade(salt, password []byte) []byte {
	h := sha256.New()
	h.Write(salt) // of fixed length, so that nothing can be moved between salt and password
	h.Write(password)
	return h.Sum(nil)
}

// decodeHash reads SALT$HASH.
func decodeHash(s string) (salt, hash []byte, err error) {
	a, b, ok := strings.Cut(s, "$")
	if !ok {
		return nil, nil, errHash
	}
	if salt, err = encoding.DecodeString(a); err != nil || len(salt) != saltBytes {
		return nil, nil, errHash
	}
	if hash, err = encoding.DecodeString(b); err != nil || len(hash) != hashBytes {
		return nil, nil, errHash
	}
	return salt, hash, nil
}

// isChosen says whether verifying against a hash is slow.
func isChosen(hash string) bool { return strings.HasPrefix(hash, kindChosen) }
