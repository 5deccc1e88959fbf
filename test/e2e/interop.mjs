// What MQTT is there for, by mqtt.js, in 3.1.1 and 5.0: over TLS and WebSocket in Node, over WebSocket in Chromium.
//   node interop.mjs MQTTS_URL WSS_URL CA_FILE USERNAME PASSWORD
// The user may publish and subscribe everywhere.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import mqtt from 'mqtt';
import { start } from './browser.mjs';
import { WAIT_MS, ok, run, same, step } from './check.mjs';

const [mqttsURL, wssURL, caFile, username, password] = process.argv.slice(2);
if (!password) {
  console.error('usage: node interop.mjs MQTTS_URL WSS_URL CA_FILE USERNAME PASSWORD');
  process.exit(1);
}
const ca = readFileSync(caFile);

// checks runs in the page too: it has nothing from around it. It returns what held, and throws at the first that did not.
async function checks(mqtt, { url, ca, username, password, version, wait }) {
  const said = [];
  const root = `js-${Math.random().toString(36).slice(2)}`;
  const all = [];

  // dial makes a client that reconnects by itself, with what it got.
  function dial(extra) {
    const c = mqtt.connect(url, { ca, username, password, protocolVersion: version, reconnectPeriod: 50, connectTimeout: wait, resubscribe: false, ...extra });
    all.push(c);
    c.got = [];
    c.presents = [];
    c.on('message', (topic, payload, packet) => c.got.push({ topic, payload, packet }));
    c.on('connect', (ack) => c.presents.push(ack.sessionPresent));
    return new Promise((resolve, reject) => {
      c.once('connect', () => resolve(c));
      c.once('error', reject);
    });
  }

  // take waits for n messages, and returns and forgets them.
  async function take(c, n) {
    for (let left = wait; c.got.length < n; left -= 5) {
      if (left <= 0) throw new Error(`${c.got.length} messages came, want ${n}`);
      await new Promise((done) => { setTimeout(done, 5); });
    }
    return c.got.splice(0).map(({ topic, payload, packet }) => [topic, payload.length > 100 ? payload.length : String(payload), packet.qos, packet.retain]);
  }

  function expect(got, want, what) {
    if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${what}: got ${JSON.stringify(got).slice(0, 500)}, want ${JSON.stringify(want).slice(0, 500)}`);
  }

  async function everyQoS() {
    const [to, from] = [await dial(), await dial()];
    await to.subscribeAsync(`${root}/qos/#`, { qos: 2 });
    const want = [];
    for (const qos of [0, 1, 2]) {
      for (let i = 0; i < 10; i++) {
        await from.publishAsync(`${root}/qos/a`, `${i}`, { qos });
        want.push([`${root}/qos/a`, `${i}`, qos, false]);
      }
    }
    expect(await take(to, want.length), want, 'messages');
  }

  async function retained() {
    const [to, from] = [await dial(), await dial()];
    await from.publishAsync(`${root}/retained/a`, 'kept', { qos: 1, retain: true });
    await to.subscribeAsync(`${root}/retained/#`, { qos: 1 });
    expect(await take(to, 1), [[`${root}/retained/a`, 'kept', 1, true]], 'retained messages');
    await from.publishAsync(`${root}/retained/a`, '', { qos: 1, retain: true });
    const late = await dial();
    await late.subscribeAsync(`${root}/retained/#`, { qos: 1 });
    await from.publishAsync(`${root}/retained/b`, 'last', { qos: 1 });
    expect(await take(late, 1), [[`${root}/retained/b`, 'last', 1, false]], 'messages after the retained one was removed');
  }

  async function will() {
    const to = await dial();
    await to.subscribeAsync(`${root}/wills/#`, { qos: 1 });
    const payload = 'gone';
    const polite = await dial({ will: { topic: `${root}/wills/polite`, payload, qos: 1 } });
    await polite.endAsync();
    const broken = await dial({ reconnectPeriod: 0, will: { topic: `${root}/wills/broken`, payload, qos: 1 } });
    broken.stream.destroy();
    expect(await take(to, 1), [[`${root}/wills/broken`, payload, 1, false]], 'wills');
  }

  async function persistent() {
    const kept = { clientId: root, clean: false };
    if (version === 5) kept.properties = { sessionExpiryInterval: 600 };
    const [from, to] = [await dial(), await dial(kept)];
    await to.subscribeAsync(`${root}/kept/#`, { qos: 2 });
    to.stream.destroy();
    for (const qos of [1, 2]) await from.publishAsync(`${root}/kept/a`, `dropped ${qos}`, { qos });
    expect(await take(to, 2), [1, 2].map((qos) => [`${root}/kept/a`, `dropped ${qos}`, qos, false]), 'messages after a reconnect');
    await to.endAsync();
    await from.publishAsync(`${root}/kept/a`, 'away', { qos: 2 });
    const again = await dial(kept);
    const got = await take(again, 1); // shown at PUBREL: what is behind it may be shown before
    await from.publishAsync(`${root}/kept/a`, 'last', { qos: 1 });
    expect([...got, ...await take(again, 1)], [[`${root}/kept/a`, 'away', 2, false], [`${root}/kept/a`, 'last', 1, false]], 'messages of the session');
    expect([to.presents, again.presents], [[false, true], [true]], 'session present');
  }

  async function large() {
    const [to, from] = [await dial(), await dial()];
    await to.subscribeAsync(`${root}/large/#`, { qos: 2 });
    const length = (1 << 20) - 64; // what the packet limit of 1 MiB has room for
    const body = new Uint8Array(length).map((_, i) => i * 7 + i / 251);
    for (const qos of [0, 1, 2]) {
      await from.publishAsync(`${root}/large/a`, body, { qos });
      while (to.got.length === 0) await new Promise((done) => { setTimeout(done, 5); });
      const { payload } = to.got[0];
      expect([payload.length, payload.every((b, i) => b === body[i])], [length, true], `1 MiB at QoS ${qos}: length, and the same bytes`);
      await take(to, 1);
    }
  }

  async function properties() {
    const c = await dial();
    await c.subscribeAsync(`${root}/properties/#`, { qos: 1, properties: { subscriptionIdentifier: 77 } });
    const sent = { contentType: 'text/plain', responseTopic: 'answers/here', payloadFormatIndicator: true, userProperties: { zebra: '1', apple: ['2', '3'] } };
    await c.publishAsync(`${root}/properties/a`, 'x', { qos: 1, properties: { ...sent, messageExpiryInterval: 600 } });
    while (c.got.length === 0) await new Promise((done) => { setTimeout(done, 5); });
    const got = c.got[0].packet.properties;
    expect([got.contentType, got.responseTopic, got.payloadFormatIndicator, Object.entries(got.userProperties), [got.subscriptionIdentifier].flat()],
      [sent.contentType, sent.responseTopic, true, Object.entries(sent.userProperties), [77]], 'properties');
    if (!(got.messageExpiryInterval > 500)) throw new Error(`message expiry ${got.messageExpiryInterval}`);
  }

  for (const check of version === 5 ? [everyQoS, retained, will, persistent, large, properties] : [everyQoS, retained, will, persistent, large]) {
    try {
      await check();
    } catch (err) {
      throw new Error(`${check.name}: ${err.message ?? err}`);
    }
    said.push(check.name);
    for (const c of all.splice(0)) c.end(true);
  }
  return said;
}

const names = { 4: '3.1.1', 5: '5.0' };

await run(async () => {
  for (const url of [mqttsURL, wssURL]) {
    for (const version of [4, 5]) {
      const where = `Node, ${new URL(url).protocol}, ${names[version]}`;
      step(where);
      ok(`${where}: ${(await checks(mqtt, { url, ca, username, password, version, wait: WAIT_MS })).join(', ')}`);
    }
  }
  step('starting the browser');
  const context = await start([wssURL], ca);
  const page = await context.newPage();
  await page.addScriptTag({ path: fileURLToPath(new URL('node_modules/mqtt/dist/mqtt.js', import.meta.url)) });
  await page.addScriptTag({ content: `window.checks = ${checks}` });
  for (const version of [4, 5]) {
    const where = `Chromium, wss:, ${names[version]}`;
    step(where);
    const said = await page.evaluate((s) => window.checks(window.mqtt, s), { url: wssURL, username, password, version, wait: WAIT_MS });
    same(said.length, version + 1, 'number of checks');
    ok(`${where}: ${said.join(', ')}`);
  }
}, 60_000);
