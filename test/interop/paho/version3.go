package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"sync"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// version3 is MQTT 3.1.1 by paho.mqtt.golang.
type version3 struct{ server *server }

type client3 struct {
	mqtt.Client
	mu       sync.Mutex
	conn     net.Conn // the present one
	received chan<- message
}

func (v *version3) connect(o options, received chan<- message) (client, error) {
	c := &client3{received: received}
	m := mqtt.NewClientOptions().AddBroker(v.server.url.String()).SetProtocolVersion(4).SetTLSConfig(v.server.tls)
	m.SetUsername(v.server.username).SetPassword(v.server.password)
	m.SetClientID(o.id).SetCleanSession(!o.keep).SetAutoReconnect(true).SetOrderMatters(true)
	if o.will != "" {
		m.SetWill(o.will, "gone", 1, false)
	}
	m.SetDefaultPublishHandler(func(_ mqtt.Client, got mqtt.Message) {
		if received != nil {
			received <- message{got.Topic(), got.Payload(), got.Qos(), got.Retained()}
		}
	})
	m.SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (conn net.Conn, err error) {
		if u.Scheme == "wss" {
			conn, err = mqtt.NewWebsocket(u.String(), v.server.tls, patience, nil, nil)
		} else {
			conn, err = tls.Dial("tcp", u.Host, v.server.tls)
		}
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
		return conn, err
	})
	c.Client = mqtt.NewClient(m)
	token := c.Connect()
	if err := wait(token); err != nil {
		return nil, err
	}
	if o.notify != nil {
		o.notify <- token.(*mqtt.ConnectToken).SessionPresent()
	}
	return c, nil
}

func wait(t mqtt.Token) error {
	if !t.WaitTimeout(patience) {
		return fmt.Errorf("%T: no answer", t)
	}
	return t.Error()
}

func (c *client3) subscribe(filter string, qos byte) error {
	t := c.Subscribe(filter, qos, nil)
	if err := wait(t); err != nil {
		return err
	}
	if got := t.(*mqtt.SubscribeToken).Result()[filter]; got != qos {
		return fmt.Errorf("SUBACK for %s says %#x", filter, got)
	}
	return nil
}

func (c *client3) publish(m message) error {
	return wait(c.Publish(m.topic, m.qos, m.retain, m.payload))
}

func (c *client3) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	abort(c.conn)
}

func (c *client3) leave() { c.Disconnect(250) }

// abort ends the TCP connection below TLS and WebSocket. The library goes by what it reads: it takes a socket that was closed on
// this side for one that it closed itself.
func abort(c net.Conn) {
	for {
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = over.NetConn()
	}
	c.(*net.TCPConn).CloseWrite() //nolint:errcheck // it may have ended
}
