// mqtt.js in Node over WebSocket and TLS against a running server.
//   node node-wss.mjs URL CA_FILE CREDENTIALS_FILE
// The rules in force: agent-01 publishes agents/agent-01/# and subscribes agents/agent-01/inbox; dashboard publishes
// commands/# and subscribes agents/#; server may do everything.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import mqtt from 'mqtt';
import { WAIT_MS, die, expect, ok, run, same, step, user, within } from './check.mjs';
import { rawChecks } from './raw-wss.mjs';

const [url, caFile, credentialsFile] = process.argv.slice(2);
if (!credentialsFile) {
  console.error('usage: node node-wss.mjs URL CA_FILE CREDENTIALS_FILE');
  process.exit(1);
}
const ca = readFileSync(caFile);
const credentials = JSON.parse(readFileSync(credentialsFile, 'utf8'));
const agent = user(credentials, 'agent-01');
const dashboard = user(credentials, 'dashboard');
const server = { username: `server@${credentials.organization}`, password: credentials.secret_key };

const STATUS = 'agents/agent-01/status';
const NAMES = { 5: 'MQTT 5', 4: 'MQTT 3.1.1', 3: 'MQTT 3.1' };
const MANY = 500;

// Client is an mqtt.js client with what it received, in order. It never reconnects: a lost connection is a failure.
class Client {
  received = []; // {topic, payload: Buffer, packet}
  wake = () => {};
  open = true;

  constructor(client) {
    this.client = client;
    client.on('message', (topic, payload, packet) => {
      this.received.push({ topic, payload, packet });
      this.wake();
    });
    client.on('error', (err) => die(`a connection failed: ${err.message}`));
    client.on('close', () => {
      this.open = false;
      this.wake();
    });
  }

  // take waits for n messages, and returns and forgets them.
  async take(n, what) {
    const enough = new Promise((resolve, reject) => {
      this.wake = () => {
        if (this.received.length >= n) resolve();
        else if (!this.open) reject(new Error(`the connection was closed while waiting for ${what}`));
      };
      this.wake();
    });
    try {
      await within(enough, `${what} (${n} wanted)`);
    } catch (err) {
      throw new Error(`${err.message}; came: ${this.received.length}`);
    }
    return this.received.splice(0);
  }

  publish(topic, payload, options) {
    return within(this.client.publishAsync(topic, payload, options), `acknowledgement of a message to ${topic}`);
  }

  subscribe(filter, options) {
    return within(this.client.subscribeAsync(filter, options), `SUBACK for ${filter}`);
  }

  async end() {
    this.client.removeAllListeners('error');
    this.client.on('error', () => {});
    await within(this.client.endAsync(), 'end of a connection');
  }
}

function options(version, who, extra) {
  return {
    ca,
    protocolVersion: version,
    protocolId: version === 3 ? 'MQIsdp' : 'MQTT',
    clientId: `e2e-${randomBytes(6).toString('hex')}`, // 16 characters: MQTT 3.1 allows 23
    username: who.username,
    password: who.password,
    clean: true,
    reconnectPeriod: 0,
    connectTimeout: WAIT_MS,
    ...extra,
  };
}

async function connect(version, who, extra) {
  const client = mqtt.connect(url, options(version, who, extra));
  const connected = new Promise((resolve, reject) => {
    client.once('connect', resolve);
    client.once('error', reject);
    client.once('close', () => reject(new Error(`closed before CONNACK (is ${url} up, and does ${caFile} verify it?)`)));
  });
  try {
    const connack = await within(connected, `CONNACK for ${who.username}`);
    client.removeAllListeners('error').removeAllListeners('close');
    return Object.assign(new Client(client), { connack });
  } catch (err) {
    client.on('error', () => {});
    client.end(true);
    throw err;
  }
}

const texts = (messages) => messages.map((m) => m.payload.toString());

// refusal returns the error of something that must fail.
async function refusal(promise, what) {
  try {
    await promise;
  } catch (err) {
    return err;
  }
  throw new Error(`${what} was accepted, it must be refused`);
}

// everyQoS: each message once, in order, with the QoS it was sent with.
async function everyQoS(version) {
  const name = NAMES[version];
  step(`${name}, QoS 0, 1 and 2`);
  const to = await connect(version, dashboard);
  const from = await connect(version, agent);
  const granted = await to.subscribe('agents/#', { qos: 2 });
  same(granted.map((g) => g.qos), [2], 'granted QoS');
  for (const qos of [0, 1, 2]) await from.publish(STATUS, `${name} at ${qos}`, { qos });
  const got = await to.take(3, 'messages at QoS 0, 1 and 2');
  await from.publish(STATUS, 'last', { qos: 1 });
  got.push(...await to.take(1, 'the last message'));
  same(texts(got), [0, 1, 2].map((qos) => `${name} at ${qos}`).concat('last'), 'messages');
  same(got.map((m) => m.packet.qos), [0, 1, 2, 1], 'QoS of the messages');
  same([...new Set(got.map((m) => m.topic))], [STATUS], 'topics of the messages');
  same(got.some((m) => m.packet.retain || m.packet.dup), false, 'retain or DUP set');
  await Promise.all([to.end(), from.end()]);
  ok(`${name}: QoS 0, 1 and 2 over WSS, each message once and in order`);
}

async function many(version) {
  step(`${NAMES[version]}, ${MANY} messages`);
  const to = await connect(version, dashboard);
  const from = await connect(version, agent);
  await to.subscribe('agents/#', { qos: 1 });
  const want = Array.from({ length: MANY }, (_, i) => `message ${i}`);
  await Promise.all(want.map((text) => from.publish(STATUS, text, { qos: 1 })));
  await from.publish(STATUS, 'last', { qos: 1 });
  same(texts(await to.take(MANY + 1, 'messages')), [...want, 'last'], 'messages');
  await Promise.all([to.end(), from.end()]);
  ok(`${NAMES[version]}: ${MANY} messages at QoS 1 at once, each once and in order`);
}

async function properties() {
  step('MQTT 5, properties');
  const to = await connect(5, dashboard);
  const from = await connect(5, agent);
  await to.subscribe('agents/#', { qos: 1, properties: { subscriptionIdentifier: 77 } });
  const sent = {
    responseTopic: 'agents/agent-01/inbox',
    correlationData: Buffer.from([0, 1, 2, 0xff, 0xfe]),
    contentType: 'text/plain; charset=utf-8',
    payloadFormatIndicator: true,
    userProperties: { zebra: 'first', apple: ['second', 'third'], Zürich: 'fourth', empty: '' },
  };
  await from.publish(STATUS, 'with properties', { qos: 1, properties: sent });
  const [{ packet: { properties: got } }] = await to.take(1, 'the message with properties');
  same(Object.entries(got.userProperties ?? {}), Object.entries(sent.userProperties), 'user properties');
  ok('MQTT 5: user properties come through, in order');
  same(got.responseTopic, sent.responseTopic, 'response topic');
  same(got.correlationData?.toString('hex'), sent.correlationData.toString('hex'), 'correlation data');
  same([got.contentType, got.payloadFormatIndicator], [sent.contentType, true], 'content type and payload format');
  ok('MQTT 5: response topic, correlation data and content type come through');
  same([got.subscriptionIdentifier].flat(), [77], 'subscription identifier');
  ok('MQTT 5: the subscription identifier is in the message');
  await Promise.all([to.end(), from.end()]);
}

async function topicAlias() {
  step('MQTT 5, topic alias');
  const to = await connect(5, dashboard);
  const from = await connect(5, agent, { autoUseTopicAlias: true });
  const maximum = from.connack.properties?.topicAliasMaximum ?? 0;
  expect(maximum >= 2, `CONNACK announces a topic alias maximum of ${maximum}, want at least 2`);
  await to.subscribe('agents/#', { qos: 1 });
  const onWire = [];
  from.client.on('packetsend', (p) => {
    if (p.cmd === 'publish') onWire.push([p.topic, p.properties?.topicAlias]);
  });
  const other = 'agents/agent-01/other';
  await from.publish(STATUS, 'a', { qos: 1, properties: { topicAlias: 1 } });
  await from.publish(other, 'b', { qos: 1, properties: { topicAlias: 2 } });
  await from.publish(STATUS, 'c', { qos: 1 });
  await from.publish(other, 'd', { qos: 0 });
  await from.publish(other, 'e', { qos: 1, properties: { topicAlias: 1 } }); // the alias moves
  await from.publish('', 'f', { qos: 1, properties: { topicAlias: 1 } });
  same(onWire, [[STATUS, 1], [other, 2], ['', 1], ['', 2], [other, 1], ['', 1]], 'topics and aliases that mqtt.js sent');
  const got = await to.take(6, 'messages by alias');
  same(got.map((m) => [m.topic, m.payload.toString()]),
    [[STATUS, 'a'], [other, 'b'], [STATUS, 'c'], [other, 'd'], [other, 'e'], [other, 'f']], 'topics and messages');
  await Promise.all([to.end(), from.end()]);
  ok('MQTT 5: topic aliases from the client');
}

async function refused(version) {
  const name = NAMES[version];
  step(`${name}, what the rules refuse`);
  const to = await connect(version, dashboard);
  const from = await connect(version, agent);
  await to.subscribe('agents/#', { qos: 1 });
  const err = await refusal(from.subscribe('commands/x', { qos: 1 }), 'the subscription to commands/x');
  same(err.packet?.granted, [version === 5 ? 0x87 : 0x80], 'SUBACK codes for commands/x');
  if (version === 5) {
    for (const qos of [1, 2]) {
      const no = await refusal(from.publish('commands/x', 'no', { qos }), `a message to commands/x at QoS ${qos}`);
      same(no.code, 0x87, `reason code for a message to commands/x at QoS ${qos}`);
    }
  } else { // it has no way to say so: acknowledged and dropped
    for (const qos of [1, 2]) await from.publish('commands/x', 'no', { qos });
  }
  await from.publish('commands/x', 'no', { qos: 0 });
  await from.publish(STATUS, 'still here', { qos: 1 });
  same(texts(await to.take(1, 'the message after the refusals')), ['still here'], 'messages');
  same(from.open, true, 'connection open after the refusals');
  await Promise.all([to.end(), from.end()]);
  ok(`${name}: refused subscriptions and messages leave the connection open`);
}

async function secretKey() {
  step('MQTT 5, the secret key');
  const all = await connect(5, server);
  const from = await connect(5, agent);
  const to = await connect(5, agent);
  await all.subscribe('agents/agent-01/#', { qos: 1 });
  await to.subscribe('agents/agent-01/inbox', { qos: 1 });
  await from.publish(STATUS, 'up', { qos: 1 });
  same(texts(await all.take(1, 'the message to the server')), ['up'], 'messages');
  await all.publish('agents/agent-01/inbox', 'down', { qos: 1 });
  same(texts(await to.take(1, 'the message to the agent')), ['down'], 'messages');
  await Promise.all([all.end(), from.end(), to.end()]);
  ok('MQTT 5: server@organization with the secret key may publish and subscribe everywhere');
}

async function large() {
  step('MQTT 5, 200 KB');
  const to = await connect(5, dashboard);
  const from = await connect(5, agent);
  await to.subscribe('agents/#', { qos: 2 });
  const body = randomBytes(200 * 1024);
  for (const qos of [0, 1, 2]) {
    await from.publish(STATUS, body, { qos });
    const [m] = await to.take(1, `200 KB at QoS ${qos}`);
    same([m.payload.length, digest(m.payload)], [body.length, digest(body)], 'length and SHA-256 of the payload');
  }
  await Promise.all([to.end(), from.end()]);
  ok('MQTT 5: 200 KB payloads at QoS 0, 1 and 2');
}

const digest = (p) => createHash('sha256').update(p).digest('hex');

async function wrongPassword(version) {
  step(`${NAMES[version]}, wrong password`);
  const want = version === 5 ? 134 : 4;
  const err = await refusal(connect(version, { ...agent, password: `${agent.password}x` }), 'a wrong password');
  same(err.code, want, `code for a wrong password (${err.message})`);
  const unknown = await refusal(connect(version, { ...agent, username: `nobody@${credentials.organization}` }), 'an unknown user');
  same(unknown.code, want, `code for an unknown user (${unknown.message})`);
  ok(`${NAMES[version]}: a wrong password and an unknown user give code ${want}`);
}

await run(async () => {
  for (const version of [5, 4, 3]) await everyQoS(version);
  await properties();
  await topicAlias();
  for (const version of [5, 4]) await refused(version);
  await secretKey();
  await large();
  for (const version of [5, 4, 3]) await many(version);
  for (const version of [5, 4, 3]) await wrongPassword(version);
  await rawChecks(url, ca, server);
}, 180_000);
