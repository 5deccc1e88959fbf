package api

import (
	"context"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
)

// Live is what the API needs of the broker: what goes on in one organization, whose number it gives. Every method is bounded.
type Live interface {
	Publish(ctx context.Context, g *access.Grant, m *broker.Message) (broker.Receipt, error)
	Retained(number uint64, filter, after string, limit int) ([]broker.Message, error)
	RetainedMessage(number uint64, topic string) (broker.Message, bool, error)
	DeleteRetained(ctx context.Context, number uint64, topic string) (bool, error)
	Sessions(number uint64, q broker.SessionQuery) ([]broker.SessionInfo, error)
	Session(number uint64, clientID string) (broker.SessionInfo, bool, error)
	Disconnect(ctx context.Context, number uint64, clientID string, forget bool) (found bool, err error)
	Terminate(ctx context.Context, number uint64, user string) (int, error)
	Usage(number uint64) broker.Usage
}
