package access

import (
	"errors"
	"strconv"
	"strings"
	"unicode"

	"cloudsignal/internal/fault"
)

// Names that are not a user's to have.
const (
	ServerUser      = "server" // logs in with a secret key and may do everything
	TokenUserPrefix = "token_" // user names of temporary tokens
)

const (
	maxUserName        = 64
	organizationPrefix = "org_"
	organizationDigits = 12
	uuidLength         = 36
)

var errUsername = errors.New("access: the user name must be NAME@ORGANIZATION")

// ParseUsername splits the user name of a CONNECT at its last @. The name is 1 to 64 letters, digits, - and _; the
// organization is org_ and 12 lower-case letters and digits, or a UUID. Anything else is an error.
func ParseUsername(s string) (name, organization string, err error) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", "", errUsername
	}
	name, organization = s[:at], s[at+1:]
	if !isName(name) || !isOrganizationID(organization) && !isUUID(organization) {
		return "", "", errUsername
	}
	return name, organization, nil
}

// ValidUserName judges the name of a user to be made. Field is name.
func ValidUserName(name string) error {
	switch {
	case name == "":
		return fault.Field("name", "must not be empty")
	case len(name) > maxUserName:
		return fault.Field("name", "at most %d characters are possible", maxUserName)
	case !isName(name):
		return fault.Field("name", "only letters (a-z, A-Z), digits, - and _ are possible")
	case strings.EqualFold(name, ServerUser):
		return fault.Field("name", "%q is reserved for log-ins with a secret key", ServerUser)
	case len(name) >= len(TokenUserPrefix) && strings.EqualFold(name[:len(TokenUserPrefix)], TokenUserPrefix):
		return fault.Field("name", "names that begin with %q are reserved for tokens", TokenUserPrefix)
	case HasSecret(name):
		return fault.Field("name", holdsSecret)
	}
	return nil
}

func isName(s string) bool {
	if s == "" || len(s) > maxUserName {
		return false
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func isOrganizationID(s string) bool {
	digits, ok := strings.CutPrefix(s, organizationPrefix)
	if !ok || len(digits) != organizationDigits {
		return false
	}
	for i := range len(digits) {
		if c := digits[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// isUUID takes upper case too: RFC 9562 section 4 wants it read.
func isUUID(s string) bool {
	if len(s) != uuidLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

func printable(r rune) bool { return unicode.IsPrint(r) }

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
