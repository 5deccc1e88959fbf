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
	MaxConnections      int   // at the same time
	MaxMessageBytes     int   // of a PUBLISH packet; announced as Maximum Packet Size
	MaxPublishRate      int   // PUBLISH a second of one connection; beyond it the connection is not read for a while
	MaxMessageRate      int   // PUBLISH a second of the whole organization; the same
	MaxMessagesPerMonth int64 // PUBLISH accepted in a calendar month, UTC
	MaxSubscriptions    int   // of one connection
	MaxSessions         int   // sessions that outlive their connection, connected or not
	MaxRetained         int   // retained messages
	MaxStorageBytes     int64 // what is kept on disk for sessions and as retained messages
}
