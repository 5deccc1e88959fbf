package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"unicode/utf8"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/fault"
)

// message is a retained message.
type message struct {
	Topic       string      `json:"topic" example:"agents/agent-01/card"`
	Payload     string      `json:"payload" doc:"As it is if it is UTF-8, else in base64." example:"online"`
	Encoding    string      `json:"encoding,omitempty" enum:"base64" doc:"The payload is in base64."`
	QoS         int         `json:"qos" minimum:"0" maximum:"2" example:"1"`
	PublishedAt string      `json:"published_at,omitempty" format:"date-time" example:"2026-11-03T09:30:00.000Z"`
	Publisher   string      `json:"publisher,omitempty" doc:"The client identifier of who published it, if it was not this API." example:"sensor-1"`
	ExpiresIn   uint32      `json:"expires_in,omitempty" doc:"Seconds that are left, if it ends." example:"60"`
	ContentType string      `json:"content_type,omitempty" example:"application/json"`
	Response    string      `json:"response_topic,omitempty" example:"replies/17"`
	Correlation string      `json:"correlation_data,omitempty" doc:"In base64." example:"MTc="`
	Properties  [][2]string `json:"user_properties,omitempty" nullable:"false" doc:"Pairs of name and value." example:"[[\"trace\",\"4711\"]]"`
}

func showMessage(m broker.Message) message {
	out := message{
		Topic: m.Topic, Payload: string(m.Payload), QoS: int(m.QoS), PublishedAt: stamp(m.At), Publisher: m.PublisherID, ExpiresIn: m.Expiry,
		ContentType: m.ContentType, Response: m.ResponseTopic, Correlation: base64.StdEncoding.EncodeToString(m.CorrelationData),
		Properties: m.UserProperties,
	}
	if !utf8.Valid(m.Payload) {
		out.Payload, out.Encoding = base64.StdEncoding.EncodeToString(m.Payload), inBase64
	}
	return out
}

type retainedListInput struct {
	Page
	Filter string `query:"filter" maxLength:"65535" doc:"A topic filter. Without one, all are listed, those of topics that begin with $ too." example:"agents/+/card"`
}

type retainedInput struct {
	Topic string `query:"topic" required:"true" minLength:"1" maxLength:"4096" example:"agents/agent-01/card"`
}

type oneMessage struct{ Body message }

func (a *API) registerRetained() {
	route(a, operation{
		id: "list-retained", method: http.MethodGet, path: "/v2/retained", tag: "messages", summary: "List retained messages",
		text: "In the order of their topics. A page has payloads of 4 MiB at most, and so fewer entries than asked for.", scope: access.RetainedRead,
	}, a.listRetained)
	route(a, operation{
		id: "get-retained", method: http.MethodGet, path: "/v2/retained/message", tag: "messages", summary: "Get a retained message",
		scope: access.RetainedRead,
	}, func(ctx context.Context, in *retainedInput) (*oneMessage, error) {
		_, m, err := a.retained(ctx, in.Topic)
		if err != nil {
			return nil, err
		}
		return &oneMessage{showMessage(m)}, nil
	})
	route(a, operation{
		id: "delete-retained", method: http.MethodDelete, path: "/v2/retained/message", tag: "messages", summary: "Delete a retained message",
		text: "The answer comes when that is durable.", scope: access.RetainedWrite, also: []int{http.StatusServiceUnavailable},
	}, a.deleteRetained)
}

// number is that of the organization that the caller acts in.
func (a *API) number(ctx context.Context) (uint64, error) {
	id := callerOf(ctx).actor.Organization
	o, ok := a.config.Directory.Organization(id)
	if !ok {
		return 0, fault.New(fault.NotFound, "there is no organization %q", id)
	}
	return o.Number, nil
}

func (a *API) listRetained(ctx context.Context, in *retainedListInput) (*listed[message], error) {
	after, err := in.after("retained")
	if err != nil {
		return nil, err
	}
	number, err := a.number(ctx)
	if err != nil {
		return nil, err
	}
	all, err := a.config.Live.Retained(number, in.Filter, after, in.fetch())
	if err != nil {
		return nil, err
	}
	size := 0
	for i := range all {
		size += all[i].Size()
	}
	if size >= broker.RetainedPage { // it was cut: what stands here for what follows is not shown
		in.Limit = min(in.Limit, len(all))
		all = append(all, broker.Message{})
	}
	return pageOf(&in.Page, "retained", all, func(m broker.Message) string { return m.Topic }, showMessage), nil
}

func (a *API) retained(ctx context.Context, topic string) (uint64, broker.Message, error) {
	number, err := a.number(ctx)
	if err != nil {
		return 0, broker.Message{}, err
	}
	m, ok, err := a.config.Live.RetainedMessage(number, topic)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "this topic has no retained message")
	}
	return number, m, err
}

func (a *API) deleteRetained(ctx context.Context, in *retainedInput) (*nothing, error) {
	number, m, err := a.retained(ctx, in.Topic)
	if err != nil {
		return nil, err
	}
	before := map[string]any{"qos": m.QoS, "bytes": len(m.Payload)} // what it said is nobody's business in the audit
	if err := a.own(ctx).Note(ctx, access.RetainedWrite, "retained.delete", in.Topic, before, nil); err != nil {
		return nil, err
	}
	_, err = a.config.Live.DeleteRetained(ctx, number, in.Topic)
	return nil, err
}
