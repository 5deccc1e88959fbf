#!/usr/bin/python3
"""Eclipse Paho for Python (Debian's python3-paho-mqtt) against a running server.

    client.py 3.1.1|5.0 HOST PORT CA_FILE USERNAME PASSWORD [websockets]

It prints a line for each thing that held, and ends with 1 at the first that did not. The user may publish and subscribe
everywhere.
"""
import os
import queue
import socket
import sys
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 15  # seconds that anything may take

VERSION, HOST, PORT, CA, USERNAME, PASSWORD = sys.argv[1:7]
TRANSPORT = sys.argv[7] if len(sys.argv) > 7 else "tcp"
FIVE = VERSION == "5.0"


class Client:
    """A connection. It reconnects by itself."""

    def __init__(self, name="", keep=False, will=None):
        extra = {} if FIVE else {"clean_session": not keep}
        if hasattr(mqtt, "CallbackAPIVersion"):  # the library 2.x asks for it
            extra["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
        self.client = mqtt.Client(client_id=name, protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311, transport=TRANSPORT, **extra)
        self.received, self.connacks, self.subacks = queue.Queue(), queue.Queue(), queue.Queue()
        self.client.on_message = lambda _c, _u, m: self.received.put(m)
        self.client.on_connect = lambda _c, _u, flags, code, *_: self.connacks.put((int(getattr(code, "value", code)), flags["session present"]))
        self.client.on_subscribe = lambda _c, _u, _id, granted, *_: self.subacks.put([int(getattr(g, "value", g)) for g in granted])
        self.client.username_pw_set(USERNAME, PASSWORD)
        self.client.tls_set(CA)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_queued_messages_set(0)
        if will:
            self.client.will_set(will, b"gone", 1)
        settings = {}
        if FIVE:
            settings["clean_start"] = not keep
            if keep:
                settings["properties"] = Properties(PacketTypes.CONNECT)
                settings["properties"].SessionExpiryInterval = 600
        self.client.connect(HOST, int(PORT), 60, **settings)
        self.client.loop_start()
        code, self.present = self.connacks.get(timeout=PATIENCE)
        same(code, 0, "CONNACK")

    def subscribe(self, topic, qos, properties=None):
        if FIVE:
            self.client.subscribe(topic, options=SubscribeOptions(qos), properties=properties)
        else:
            self.client.subscribe(topic, qos)
        same(self.subacks.get(timeout=PATIENCE), [qos], f"SUBACK for {topic}")

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.client.publish(topic, payload, qos, retain, properties) if FIVE else self.client.publish(topic, payload, qos, retain)
        info.wait_for_publish(PATIENCE)
        same(info.is_published(), True, f"acknowledgement of a message to {topic}")

    def expect(self, *want):
        """Waits for messages (topic, payload, QoS, retain), each once and in order."""
        for w in want:
            m = self.received.get(timeout=PATIENCE)
            same((m.topic, m.payload, m.qos, m.retain), w, "a message")

    def drop(self):
        """Ends the TCP connection below everything."""
        s = self.client.socket()
        raw = s if isinstance(s, socket.socket) else s._socket
        socket.socket.shutdown(raw, socket.SHUT_WR)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def same(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: {str(got)[:300]}, want {str(want)[:300]}")


def every_qos():
    to, sender = Client(), Client()
    to.subscribe("py/qos/#", 2)
    want = [(f"py/qos/{qos}", str(i).encode(), qos, False) for qos in range(3) for i in range(20)]
    for m in want:
        sender.publish(*m)
    to.expect(*want)
    to.leave()
    sender.leave()


def retained():
    to, sender = Client(), Client()
    sender.publish("py/retained/a", b"kept", 1, True)
    to.subscribe("py/retained/#", 1)
    to.expect(("py/retained/a", b"kept", 1, True))
    sender.publish("py/retained/a", b"", 1, True)
    late = Client()
    late.subscribe("py/retained/#", 1)
    sender.publish("py/retained/last", b"last", 1)
    to.expect(("py/retained/a", b"", 1, False), ("py/retained/last", b"last", 1, False))
    late.expect(("py/retained/last", b"last", 1, False))
    for c in (to, sender, late):
        c.leave()


def will():
    to = Client()
    to.subscribe("py/wills/#", 1)
    Client(will="py/wills/polite").leave()
    broken = Client(will="py/wills/broken")
    broken.drop()
    to.expect(("py/wills/broken", b"gone", 1, False))
    broken.leave()
    to.leave()


def persistent():
    name = f"py-{uuid.uuid4().hex}"
    sender, to = Client(), Client(name, keep=True)
    same(to.present, 0, "session present at first")
    to.subscribe("py/kept/#", 2)
    to.drop()
    dropped = [("py/kept/a", f"dropped {qos}".encode(), qos, False) for qos in (1, 2)]
    for m in dropped:
        sender.publish(*m)
    to.expect(*dropped)
    same(to.connacks.get(timeout=PATIENCE), (0, 1), "CONNACK of the reconnect")
    to.leave()
    sender.publish("py/kept/a", b"away", 2)
    again = Client(name, keep=True)
    same(again.present, 1, "session present")
    again.expect(("py/kept/a", b"away", 2, False))  # shown at PUBREL: what is behind it may be shown before
    sender.publish("py/kept/a", b"last", 1)
    again.expect(("py/kept/a", b"last", 1, False))
    again.leave()
    sender.leave()


def large():
    to, sender = Client(), Client()
    to.subscribe("py/large/#", 2)
    body = os.urandom((1 << 20) - 32)
    for qos in range(3):
        sender.publish("py/large/a", body, qos)
        to.expect(("py/large/a", body, qos, False))
    to.leave()
    sender.leave()


def properties():
    c = Client()
    identified = Properties(PacketTypes.SUBSCRIBE)
    identified.SubscriptionIdentifier = 77
    c.subscribe("py/properties/#", 1, identified)
    sent = Properties(PacketTypes.PUBLISH)
    sent.PayloadFormatIndicator = 1
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers/here"
    sent.CorrelationData = b"\x00\x01\xff"
    sent.MessageExpiryInterval = 600
    sent.UserProperty = [("zebra", "1"), ("apple", "2"), ("zebra", "3")]
    c.publish("py/properties/a", b"x", 1, properties=sent)
    got = c.received.get(timeout=PATIENCE).properties
    same((got.PayloadFormatIndicator, got.ContentType, got.ResponseTopic, got.CorrelationData, got.UserProperty),
         (1, "text/plain", "answers/here", b"\x00\x01\xff", [("zebra", "1"), ("apple", "2"), ("zebra", "3")]), "properties")
    same(got.SubscriptionIdentifier, [77], "subscription identifier")
    same(500 <= got.MessageExpiryInterval <= 600, True, "message expiry")
    c.leave()


def main():
    checks = [every_qos, retained, will, persistent, large] + ([properties] if FIVE else [])
    for check in checks:
        try:
            check()
        except queue.Empty:
            sys.exit(f"FAIL: {check.__name__}: nothing came")
        except (AssertionError, OSError) as err:
            sys.exit(f"FAIL: {check.__name__}: {err}")
        print(f"ok: {VERSION} {TRANSPORT}: {check.__name__}", flush=True)
    os._exit(0)  # whatever the library's threads still do


main()
