// Package access says who may do what. A log-in is judged against the Directory, an in-memory picture of every organization,
// and gets a Grant: who it is, the rules that hold for it, compiled, and its limits. Check and Explain answer from a Grant
// with one evaluator.
package access

// Action is what a client wants to do with a topic.
type Action uint8

// Actions.
const (
	Publish Action = iota + 1
	Subscribe
)

// String is the action's name in texts and logs.
func (a Action) String() string {
	switch a {
	case Publish:
		return "publish"
	case Subscribe:
		return "subscribe"
	}
	return "unknown"
}

// Limits are one organization's. Zero means unlimited, within the server's own bounds.
type Limits struct {
	MaxConnections int // connections at the same time
}
