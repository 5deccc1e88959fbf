// Packets by hand over a WebSocket: what a library never does to a server, and what it hides of the server's answers.
import { randomBytes } from 'node:crypto';
import WebSocket from 'ws';
import { expect, ok, same, step, within } from './check.mjs';

const CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBSCRIBE = 8, SUBACK = 9, PINGREQ = 12, PINGRESP = 13, DISCONNECT = 14;

const u16 = (n) => Buffer.from([n >> 8, n & 0xff]);
const string = (text) => Buffer.concat([u16(Buffer.byteLength(text)), Buffer.from(text)]);
const property = (id, ...parts) => Buffer.concat([Buffer.from([id]), ...parts]);

function varint(n) {
  const bytes = [];
  do {
    bytes.push((n & 0x7f) | (n > 0x7f ? 0x80 : 0));
    n >>= 7;
  } while (n > 0);
  return Buffer.from(bytes);
}

function packet(type, flags, ...parts) {
  const body = Buffer.concat(parts);
  return Buffer.concat([Buffer.from([(type << 4) | flags]), varint(body.length), body]);
}

const withLength = (properties) => Buffer.concat([varint(properties.length), properties]);

function connectPacket(who) {
  return packet(CONNECT, 0, string('MQTT'), Buffer.from([5, 0xc2]), u16(60), withLength(Buffer.alloc(0)),
    string(`raw-${randomBytes(6).toString('hex')}`), string(who.username), string(who.password));
}

// readVarint returns the value and the offset behind it, or null if p ends before.
function readVarint(p, at) {
  let value = 0;
  for (let i = 0; i < 4; i++) {
    if (at + i >= p.length) return null;
    value += (p[at + i] & 0x7f) * 128 ** i;
    if (p[at + i] < 0x80) return [value, at + i + 1];
  }
  throw new Error('the server sent a remaining length of more than 4 bytes');
}

// Socket is a WebSocket with the packets that came, whatever frames they came in.
class Socket {
  rest = Buffer.alloc(0);
  packets = []; // {type, flags, body}
  wake = () => {};
  closed = null;

  constructor(url, ca, protocols) {
    this.ws = new WebSocket(url, protocols, { ca, perMessageDeflate: false });
    this.ended = new Promise((resolve) => {
      this.ws.on('close', (code, reason) => {
        this.closed = `WebSocket code ${code} ${reason}`;
        this.wake();
        resolve(code);
      });
    });
    this.opened = new Promise((resolve, reject) => {
      this.ws.once('open', resolve);
      this.ws.on('error', reject);
    });
    this.opened.catch(() => {});
    this.ws.on('message', (data, binary) => {
      this.text ||= !binary;
      this.rest = Buffer.concat([this.rest, data]);
      while (this.next());
      this.wake();
    });
  }

  next() {
    const length = readVarint(this.rest, 1);
    if (!length || this.rest.length < length[1] + length[0]) return false;
    const [n, at] = length;
    this.packets.push({ type: this.rest[0] >> 4, flags: this.rest[0] & 0x0f, body: this.rest.subarray(at, at + n) });
    this.rest = this.rest.subarray(at + n);
    return true;
  }

  async take(n, what) {
    const enough = new Promise((resolve, reject) => {
      this.wake = () => {
        if (this.packets.length >= n) resolve();
        else if (this.closed) reject(new Error(`the server closed (${this.closed}) instead of sending ${what}`));
      };
      this.wake();
    });
    await within(enough, what);
    expect(!this.text, 'the server sent a text frame; MQTT uses binary frames only');
    return this.packets.splice(0, n);
  }

  open() {
    return within(this.opened, 'WebSocket handshake');
  }

  async end() {
    this.ws.send(packet(DISCONNECT, 0));
    this.ws.close();
    await within(this.ended, 'end of the WebSocket');
  }
}

function accepted({ type, body }) {
  same([type, body[0], body[1]], [CONNACK, 0, 0], 'packet type, flags and reason code of the answer to CONNECT');
}

async function subprotocols(url, ca) {
  step('WebSocket subprotocol');
  for (const [offered, want] of [[['mqtt'], 'mqtt'], [['mqttv3.1', 'mqtt'], 'mqtt'], [['mqttv3.1'], 'mqttv3.1']]) {
    const s = new Socket(url, ca, offered);
    await s.open();
    same(s.ws.protocol, want, `chosen subprotocol when ${offered.join(', ')} is offered`);
    s.ws.close();
    await within(s.ended, 'end of the WebSocket');
  }
  const other = new Socket(new URL('/mqtt', url), ca, ['mqtt']);
  await other.open();
  same(other.ws.protocol, 'mqtt', 'chosen subprotocol at the path /mqtt');
  other.ws.close();
  await within(other.ended, 'end of the WebSocket');
  ok('WebSocket: the handshake chooses the subprotocol mqtt, and mqttv3.1 for clients that know no other; / and /mqtt answer');
}

// split: CONNECT in frames of one byte each, then three packets in one frame, then one packet cut across two packets' frames.
async function splitAndJoined(url, ca, who) {
  step('WebSocket, split and joined packets');
  const s = new Socket(url, ca, ['mqtt']);
  await s.open();
  for (const byte of connectPacket(who)) s.ws.send(Buffer.from([byte]));
  accepted((await s.take(1, 'CONNACK'))[0]);
  ok('WebSocket: a CONNECT in frames of one byte each');

  const topic = `agents/agent-01/${randomBytes(4).toString('hex')}`;
  const user = (k, v) => property(0x26, string(k), string(v));
  const properties = Buffer.concat([user('b', '1'), user('a', '2'), user('b', '3'), user('a', '2'), property(0x09, u16(3), Buffer.from([0, 0xff, 1]))]);
  const subscribe = packet(SUBSCRIBE, 2, u16(1), withLength(Buffer.alloc(0)), string(topic), Buffer.from([1]));
  const publish = packet(PUBLISH, 2, string(topic), u16(2), withLength(properties), Buffer.from('joined'));
  const ping = packet(PINGREQ, 0);
  s.ws.send(Buffer.concat([subscribe, publish, ping]));
  const got = await s.take(4, 'SUBACK, PUBACK, PUBLISH and PINGRESP');
  same(got.map((p) => p.type).sort((a, b) => a - b), [PUBLISH, PUBACK, SUBACK, PINGRESP], 'packet types that came');
  const by = (type) => got.find((p) => p.type === type);
  same(by(SUBACK).body.toString('hex'), '00010001', 'SUBACK');
  same(by(PUBACK).body.readUInt16BE(0), 2, 'packet id of PUBACK');
  expect((by(PUBACK).body[2] ?? 0) === 0, `PUBACK has reason code ${by(PUBACK).body[2]}`);
  ok('WebSocket: SUBSCRIBE, PUBLISH and PINGREQ joined in one frame');
  delivered(by(PUBLISH), topic, properties);
  ok('MQTT 5: user properties keep order and repetition on the wire');

  const id = by(PUBLISH).body.subarray(2 + topic.length, 4 + topic.length);
  const two = Buffer.concat([packet(PUBACK, 0, id), ping, ping]); // cut inside the first and the last
  s.ws.send(two.subarray(0, 3));
  s.ws.send(two.subarray(3, two.length - 1));
  s.ws.send(two.subarray(two.length - 1));
  same((await s.take(2, 'two PINGRESP')).map((p) => p.type), [PINGRESP, PINGRESP], 'packet types that came');
  s.ws.send(two.subarray(4, 8), { fin: false }); // one message in two fragments
  s.ws.send(Buffer.alloc(0), { fin: true });
  same((await s.take(2, 'two PINGRESP')).map((p) => p.type), [PINGRESP, PINGRESP], 'packet types that came');
  await s.end();
  ok('WebSocket: packets cut across frames and fragments');
}

function delivered({ flags, body }, topic, properties) {
  same(flags, 2, 'flags of the PUBLISH (QoS 1)');
  same(body.subarray(0, 2 + topic.length).toString('hex'), string(topic).toString('hex'), 'topic of the PUBLISH');
  const [length, at] = readVarint(body, 4 + topic.length);
  same(userProperties(body.subarray(at, at + length)), userProperties(properties), 'user properties and correlation data');
  same(body.subarray(at + length).toString(), 'joined', 'payload of the PUBLISH');
}

// userProperties lists the user properties in order, and the correlation data last, wherever it stood.
function userProperties(p) {
  const pairs = [];
  let correlation = '';
  const text = () => {
    const n = p.readUInt16BE(0);
    const t = p.subarray(2, 2 + n);
    p = p.subarray(2 + n);
    return t;
  };
  while (p.length > 0) {
    const id = p[0];
    p = p.subarray(1);
    if (id === 0x26) pairs.push([text().toString(), text().toString()]);
    else if (id === 0x09) correlation = text().toString('hex');
    else throw new Error(`the PUBLISH has the property 0x${id.toString(16)}, which was not sent`);
  }
  return [pairs, correlation];
}

async function textFrame(url, ca, who) {
  step('WebSocket, text frame');
  const s = new Socket(url, ca, ['mqtt']);
  await s.open();
  s.ws.send(connectPacket(who));
  accepted((await s.take(1, 'CONNACK'))[0]);
  s.ws.send('text');
  await within(s.ended, 'end of the connection after a text frame'); // [MQTT-6.0.0-1]
  ok('WebSocket: a text frame closes the connection');
}

export async function rawChecks(url, ca, who) {
  await subprotocols(url, ca);
  await splitAndJoined(url, ca, who);
  await textFrame(url, ca, who);
}
