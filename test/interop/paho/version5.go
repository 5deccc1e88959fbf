package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// version5 is MQTT 5.0 by paho.golang.
type version5 struct{ server *server }

type client5 struct {
	*autopaho.ConnectionManager
}

func (v *version5) connect(o options, received chan<- message) (client, error) {
	return v.open(o, func(p *paho.Publish) {
		if received != nil {
			received <- message{p.Topic, p.Payload, p.QoS, p.Retain}
		}
	})
}

func (v *version5) open(o options, received func(*paho.Publish)) (*client5, error) {
	refused := make(chan error, 1)
	var first sync.Once
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{v.server.url}, TlsCfg: v.server.tls, KeepAlive: 60,
		ConnectUsername: v.server.username, ConnectPassword: []byte(v.server.password),
		CleanStartOnInitialConnection: !o.keep,
		ReconnectBackoff:              func(int) time.Duration { return 100 * time.Millisecond },
		OnConnectionUp: func(_ *autopaho.ConnectionManager, ack *paho.Connack) {
			first.Do(func() {
				if o.notify != nil {
					o.notify <- ack.SessionPresent
				}
			})
		},
		OnConnectError: func(err error) {
			select {
			case refused <- err:
			default:
			}
		},
		ClientConfig: paho.ClientConfig{
			ClientID: o.id,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				received(r.Packet)
				return true, nil
			}},
		},
	}
	if o.keep {
		cfg.SessionExpiryInterval = 600
	}
	if o.will != "" {
		cfg.WillMessage = &paho.WillMessage{Topic: o.will, Payload: []byte("gone"), QoS: 1}
	}
	cm, err := autopaho.NewConnection(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := within()
	defer cancel()
	up := make(chan error, 1)
	go func() { up <- cm.AwaitConnection(ctx) }()
	select {
	case err = <-up:
	case err = <-refused:
	}
	return &client5{cm}, err
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (c *client5) subscribe(filter string, qos byte) error {
	ctx, cancel := within()
	defer cancel()
	ack, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}})
	if err == nil && ack.Reasons[0] != qos {
		err = fmt.Errorf("SUBACK for %s says %#x", filter, ack.Reasons[0])
	}
	return err
}

func (c *client5) publish(m message) error {
	ctx, cancel := within()
	defer cancel()
	_, err := c.Publish(ctx, &paho.Publish{Topic: m.topic, Payload: m.payload, QoS: m.qos, Retain: m.retain})
	return err
}

func (c *client5) drop() { c.TerminateConnectionForTest() }

func (c *client5) leave() {
	ctx, cancel := within()
	defer cancel()
	c.Disconnect(ctx) //nolint:errcheck // it may have ended
}

// properties: what a message says beside its payload comes through, and a subscription identifier with it.
func (v *version5) properties() error {
	received := make(chan *paho.Publish, 10)
	c, err := v.open(options{}, func(p *paho.Publish) { received <- p })
	if err != nil {
		return err
	}
	defer c.leave()
	ctx, cancel := within()
	defer cancel()
	identifier := 77
	if _, err := c.Subscribe(ctx, &paho.Subscribe{
		Properties:    &paho.SubscribeProperties{SubscriptionIdentifier: &identifier},
		Subscriptions: []paho.SubscribeOptions{{Topic: "properties/#", QoS: 1}},
	}); err != nil {
		return err
	}
	format, expiry := byte(1), uint32(600)
	sent := &paho.PublishProperties{
		CorrelationData: []byte{0, 1, 0xff}, ContentType: "text/plain", ResponseTopic: "answers/here", PayloadFormat: &format, MessageExpiry: &expiry,
		User: paho.UserProperties{{Key: "zebra", Value: "1"}, {Key: "apple", Value: "2"}, {Key: "zebra", Value: "3"}},
	}
	if _, err := c.Publish(ctx, &paho.Publish{Topic: "properties/a", QoS: 1, Payload: []byte("x"), Properties: sent}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return errors.New("no message came")
	case p := <-received:
		got := p.Properties
		switch {
		case !bytes.Equal(got.CorrelationData, sent.CorrelationData), got.ContentType != sent.ContentType, got.ResponseTopic != sent.ResponseTopic,
			got.PayloadFormat == nil || *got.PayloadFormat != 1, got.MessageExpiry == nil || *got.MessageExpiry > 600 || *got.MessageExpiry < 500,
			got.SubscriptionIdentifier == nil || *got.SubscriptionIdentifier != 77, !slices.Equal(got.User, sent.User):
			return fmt.Errorf("the properties were %s", p)
		}
	}
	return nil
}
