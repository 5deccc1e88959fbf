package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	"cloudsignal/internal/access"
	"cloudsignal/internal/broker"
	"cloudsignal/internal/control"
	"cloudsignal/internal/fault"
)

// maxPublishBody has room for a packet of 1 MiB whose payload is in base64.
const maxPublishBody = 2 << 20

const inBase64 = "base64"

type publishInput struct {
	Body struct {
		Topic       string          `json:"topic" minLength:"1" maxLength:"4096" doc:"4096 bytes at most, in 64 levels." example:"agents/agent-01/inbox"`
		Payload     json.RawMessage `json:"payload" doc:"A string is sent as it is; an object, an array, a number, true, false and null are sent as their JSON." example:"{\"on\":true}"`
		Encoding    string          `json:"encoding,omitempty" enum:"base64" doc:"The payload is a string of base64."`
		QoS         *int            `json:"qos,omitempty" nullable:"false" minimum:"0" maximum:"2" default:"1"`
		Retain      bool            `json:"retain,omitempty" doc:"It becomes the topic's retained message; an empty one removes that." example:"false"`
		Expiry      int64           `json:"expiry,omitempty" minimum:"1" maximum:"4294967295" doc:"Seconds until it is delivered to nobody any more." example:"60"`
		ContentType string          `json:"content_type,omitempty" maxLength:"65535" example:"application/json"`
		Response    string          `json:"response_topic,omitempty" maxLength:"65535" example:"replies/17"`
		Correlation string          `json:"correlation_data,omitempty" maxLength:"87384" doc:"In base64." example:"MTc="`
		Properties  [][2]string     `json:"user_properties,omitempty" nullable:"false" maxItems:"1000" doc:"Pairs of name and value, in this order." example:"[[\"trace\",\"4711\"]]"`
	} `nameHint:"Publish"`
}

type published struct {
	Body struct {
		ID      string `json:"message_id" example:"msg_k7xm4pqr2n5t"`
		Matched bool   `json:"matched" doc:"Somebody subscribes to the topic." example:"true"`
	} `nameHint:"Published"`
}

func (a *API) registerPublish() {
	o := operation{
		id: "publish", method: http.MethodPost, path: "/v1/publish", tag: "messages", summary: "Publish a message",
		text: "Under the rules and limits that hold for MQTT; a publishable key is judged by the default rule set under its own id. " +
			"The answer comes when the message is durable.",
		scope: access.PublishMessages, body: maxPublishBody, bucket: a.publishing, cors: true, also: []int{http.StatusServiceUnavailable},
	}
	route(a, o, a.publish)
	o.text = "The same as /v1/publish."
	for _, alias := range [][2]string{{"publish-plain", "/publish"}, {"publish-api", "/api/v1/publish"}, {"publish-v2", "/v2/publish"}} {
		o.id, o.path = alias[0], alias[1]
		route(a, o, a.publish)
	}
}

func (a *API) publish(ctx context.Context, in *publishInput) (*published, error) {
	m, err := in.message()
	if err != nil {
		return nil, err
	}
	g, err := a.publisher(callerOf(ctx).actor)
	if err != nil {
		return nil, err
	}
	id, err := access.NewID(a.config.Rand, "msg_")
	if err != nil {
		return nil, err
	}
	receipt, err := a.config.Live.Publish(ctx, g, m)
	if err != nil {
		return nil, err
	}
	out := new(published)
	out.Body.ID, out.Body.Matched = id, receipt.Matched
	return out, nil
}

// message is what is to be published.
func (in *publishInput) message() (*broker.Message, error) {
	b := &in.Body
	m := &broker.Message{
		Topic: b.Topic, QoS: uint8(*b.QoS), Retain: b.Retain, Expiry: uint32(b.Expiry), ContentType: b.ContentType,
		ResponseTopic: b.Response, UserProperties: b.Properties,
	}
	var err error
	if m.Payload, err = readPayload(b.Payload, b.Encoding); err != nil {
		return nil, err
	}
	if b.Correlation != "" {
		if m.CorrelationData, err = base64.StdEncoding.DecodeString(b.Correlation); err != nil {
			return nil, fault.Field("correlation_data", "must be base64")
		}
	}
	return m, nil
}

// readPayload is what a payload stands for: the text of a string, the bytes of one in base64, the JSON of anything else, without
// blanks between its parts.
func readPayload(raw json.RawMessage, encoding string) ([]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '"' {
		if encoding != "" {
			return nil, fault.Field("payload", "must be a string to be %s", encoding)
		}
		var out bytes.Buffer
		if err := json.Compact(&out, raw); err != nil {
			return nil, fault.Field("payload", "is not JSON")
		}
		return out.Bytes(), nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, fault.Field("payload", "is not JSON")
	}
	if encoding != inBase64 {
		return []byte(text), nil
	}
	out, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fault.Field("payload", "must be base64")
	}
	return out, nil
}

// publisher is what an actor may publish: a key what its kind allows, everybody else what the server may.
func (a *API) publisher(actor control.Actor) (*access.Grant, error) {
	if actor.Kind != control.KeyActor {
		o, ok := a.config.Directory.Organization(actor.Organization)
		if !ok {
			return nil, fault.New(fault.NotFound, "there is no organization %q", actor.Organization)
		}
		if o.Disabled {
			return nil, fault.New(fault.Forbidden, "the organization is disabled")
		}
		return &access.Grant{
			User: access.ServerUser, Organization: o.ID, OrganizationNumber: o.Number, ClientID: actor.ID, Server: true,
			Limits: o.Limits, Revision: o.Revision,
		}, nil
	}
	g, err := a.config.Directory.KeyGrant(actor.Organization, actor.ID)
	if r, ok := errors.AsType[*access.Refusal](err); ok {
		if r.Why == access.WhyDisabled {
			return nil, fault.New(fault.Forbidden, "the organization is disabled")
		}
		return nil, fault.New(fault.Unauthorized, "this key may not publish any more")
	}
	return g, err
}
