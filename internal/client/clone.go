package client

import (
	"slices"

	"cloudsignal/internal/mqtt"
)

// cloneProperties copies properties out of the memory they were decoded from.
func cloneProperties(p *mqtt.Properties) mqtt.Properties {
	q := *p
	for _, f := range []*[]byte{
		&q.ContentType, &q.ResponseTopic, &q.CorrelationData, &q.AssignedClientID, &q.AuthMethod, &q.AuthData,
		&q.ResponseInfo, &q.ServerReference, &q.ReasonString,
	} {
		*f = slices.Clone(*f)
	}
	q.SubscriptionIDs = slices.Clone(p.SubscriptionIDs)
	q.User = slices.Clone(p.User)
	for i := range q.User {
		u := &q.User[i]
		u.Key, u.Value = slices.Clone(u.Key), slices.Clone(u.Value)
	}
	return q
}
