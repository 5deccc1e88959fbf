import mqtt from 'mqtt';
import { explainClosed, explainRefusal, explainUnreachable, explainUnanswered, hex } from './reasons.js';

const CONNECT_MS = 15_000; // from opening the socket to CONNACK
const KEEPALIVE_S = 30;
const LOG_MAX = 500; // messages shown; the oldest leaves
const TEXT_MAX = 16_384; // characters shown of one payload
const BYTES_MAX = 128; // bytes shown of a payload that is not text

const el = Object.fromEntries(
  ['url', 'username', 'password', 'connect', 'disconnect', 'status', 'filter', 'subscribe', 'subscriptions', 'topic', 'message', 'qos', 'send',
    'log', 'scroller', 'clear', 'error', 'note', 'connection', 'receiving', 'sending'].map((id) => [id, document.getElementById(id)]),
);
const utf8 = new TextDecoder('utf-8', { fatal: true });

// The one connection: {client, opened, refused, leaving, goodbye, closed}; null when there is none.
let live = null;

// ---- what the page says ----

function setState(state, text) {
  el.status.dataset.state = state;
  el.status.textContent = text;
  const connected = state === 'connected';
  el.connect.disabled = state !== 'disconnected';
  el.disconnect.disabled = state === 'disconnected';
  el.disconnect.textContent = state === 'connecting' ? 'Cancel' : 'Disconnect';
  el.subscribe.disabled = el.send.disabled = !connected;
  for (const id of ['url', 'username', 'password']) el[id].readOnly = state !== 'disconnected';
}

// showError shows {text, link?}; link is an address to open in a tab of its own.
function showError(problem) {
  const nodes = [problem.text];
  if (problem.link) {
    const a = document.createElement('a');
    a.href = problem.link;
    a.target = '_blank';
    a.rel = 'noopener noreferrer';
    a.textContent = problem.link;
    nodes.push(' ', a);
  }
  el.error.replaceChildren(...nodes);
  el.error.hidden = false;
  el.note.textContent = '';
}

function clearError() {
  el.error.replaceChildren();
  el.error.hidden = true;
}

function fieldError(field, text) {
  showError({ text });
  field.focus();
}

function clock(date) {
  return date.toLocaleTimeString([], { hour12: false });
}

// ---- the message log ----

let waiting = []; // messages not yet shown, at most LOG_MAX

function receive(topic, payload, packet) {
  if (waiting.length === 0) setTimeout(showWaiting, 0); // one layout for a burst
  else if (waiting.length === LOG_MAX) waiting.shift();
  waiting.push({ topic, payload, qos: packet.qos, retain: packet.retain, at: new Date() });
}

function showWaiting() {
  const box = el.scroller;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  el.log.append(...waiting.map(entry));
  waiting = [];
  while (el.log.childElementCount > LOG_MAX) el.log.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

// entry builds a message's line. What was received only ever becomes text nodes and attribute values.
function entry(m) {
  const li = document.createElement('li');
  li.dataset.topic = m.topic;
  const meta = part('div', 'meta', '');
  const time = part('time', '', clock(m.at));
  time.dateTime = m.at.toISOString();
  meta.append(part('span', 'name', m.topic), time, part('span', '', `QoS ${m.qos}${m.retain ? ', retained' : ''}`));
  li.append(meta, part('pre', 'payload', readable(m.payload)));
  return li;
}

function part(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.textContent = text;
  return e;
}

function readable(payload) {
  try {
    const text = utf8.decode(payload);
    return text.length <= TEXT_MAX ? text : `${text.slice(0, TEXT_MAX)}… (${payload.length} bytes)`;
  } catch {
    const bytes = Array.from(payload.subarray(0, BYTES_MAX), (b) => b.toString(16).padStart(2, '0')).join(' ');
    return `(${payload.length} bytes, not text) ${bytes}${payload.length > BYTES_MAX ? ' …' : ''}`;
  }
}

// ---- connecting ----

function address() {
  let url;
  try {
    url = new URL(el.url.value.trim());
  } catch {
    return fieldError(el.url, 'This is not an address. It looks like wss://localhost:18885/');
  }
  if (url.protocol !== 'wss:') {
    return fieldError(el.url, `The address must begin with wss:// (encrypted WebSocket), not ${url.protocol}//`);
  }
  if (url.username || url.password) return fieldError(el.url, 'Leave user name and password out of the address; they have fields of their own.');
  url.hash = '';
  return url;
}

function connect() {
  const url = address();
  if (!url) return;
  if (!el.username.value) return void fieldError(el.username, 'Enter the user name: name@org_…');
  clearError();
  el.note.textContent = '';
  const link = { url, user: el.username.value, opened: false, connected: false, refused: null, leaving: false, goodbye: null, closed: null };
  setState('connecting', 'Connecting…');
  try {
    link.client = mqtt.connect(url.href, options(link));
  } catch (err) {
    setState('disconnected', 'Not connected');
    return void showError({ text: `The browser refuses this address: ${err.message}` });
  }
  live = link;
  listen(link);
}

function options(link) {
  return {
    protocolVersion: 5,
    clientId: `try-${crypto.getRandomValues(new Uint32Array(2)).join('-')}`,
    username: link.user,
    password: el.password.value,
    clean: true,
    keepalive: KEEPALIVE_S,
    connectTimeout: CONNECT_MS,
    reconnectPeriod: 0, // the user decides when to try again
    queueQoSZero: false,
    timerVariant: 'native', // the other one needs a worker from a blob: address, which the policy forbids
    createWebsocket(href, protocols) {
      const socket = new WebSocket(href, protocols);
      socket.addEventListener('open', () => { link.opened = true; });
      socket.addEventListener('close', (event) => { link.closed = event; });
      return socket;
    },
  };
}

function listen(link) {
  const { client } = link;
  client.on('connect', () => {
    link.connected = true;
    setState('connected', `Connected as ${link.user}`);
  });
  client.on('message', receive);
  client.on('error', (err) => {
    link.refused ??= err;
  });
  client.on('disconnect', (packet) => {
    link.goodbye = packet;
  });
  client.on('close', () => ended(link));
}

function ended(link) {
  if (live !== link) return;
  live = null;
  link.client.end(true);
  el.subscriptions.replaceChildren();
  setState('disconnected', 'Not connected');
  if (link.leaving) return;
  if (!link.connected && Number.isInteger(link.refused?.code)) showError({ text: explainRefusal(link.refused.code, link.user) });
  else if (!link.opened) showError(explainUnreachable(link.url));
  else if (!link.connected) showError({ text: explainUnanswered(link.closed) });
  else showError({ text: explainClosed(link.goodbye, link.closed, link.refused) });
}

function disconnect() {
  if (!live) return;
  live.leaving = true;
  live.client.end(!live.connected);
}

// ---- receiving and sending ----

const qos = () => Number(el.qos.value);

function subscribe() {
  const link = live;
  const filter = el.filter.value;
  if (!link?.connected) return;
  if (!filter) return void fieldError(el.filter, 'Enter a topic filter, for example agents/#');
  link.client.subscribe(filter, { qos: qos() }, (err, _, suback) => {
    if (live !== link) return;
    if (!err) {
      clearError();
      return void addSubscription(link, filter);
    }
    const code = suback?.granted?.[0];
    if (code === 0x87) {
      showError({ text: `Subscribing to ${filter} is refused (${hex(code)}, not authorized): no rule allows ${link.user} to receive it. Ask for a `
        + 'filter your rules allow, or have a rule added. The connection stays open.' });
    } else if (code) {
      showError({ text: `Subscribing to ${filter} failed (${hex(code)}): ${err.message}. The connection stays open.` });
    } else {
      showError({ text: `Subscribing to ${filter} failed: ${err.message}. In a filter, + stands for one whole level `
        + 'and # for all that follow, at the end only.' });
    }
  });
}

function addSubscription(link, filter) {
  for (const li of el.subscriptions.children) if (li.dataset.filter === filter) return;
  const li = part('li', '', filter);
  li.dataset.filter = filter;
  const remove = part('button', '', '×');
  remove.type = 'button';
  remove.setAttribute('aria-label', `Unsubscribe from ${filter}`);
  remove.addEventListener('click', () => {
    remove.disabled = true;
    link.client.unsubscribe(filter, (err) => {
      if (live !== link) return;
      li.remove();
      if (err) showError({ text: `Unsubscribing from ${filter} failed: ${err.message}` });
    });
  });
  li.append(remove);
  el.subscriptions.append(li);
}

function send() {
  const link = live;
  const topic = el.topic.value;
  const text = el.message.value;
  if (!link?.connected) return;
  if (!topic) return void fieldError(el.topic, 'Enter the topic to send to, for example agents/agent-01/chat');
  if (/[+#]/.test(topic)) return void fieldError(el.topic, 'A message goes to one topic: + and # are for topic filters only.');
  const level = qos();
  link.client.publish(topic, text, { qos: level }, (err, ack) => {
    if (live !== link) return;
    if (err) return void showError({ text: explainPublish(err, topic, link.user) });
    clearError();
    if (el.message.value === text) el.message.value = '';
    const nobody = ack?.reasonCode === 0x10 ? ', but nobody is subscribed' : '';
    el.note.textContent = `${level === 0 ? 'Sent' : 'Accepted'} at ${clock(new Date())}${nobody}.`;
  });
}

function explainPublish(err, topic, user) {
  if (err.code === 0x87) {
    return `Sending to ${topic} is refused (${hex(err.code)}, not authorized): no rule allows ${user} to send there. Use a topic your rules allow, or `
      + 'have a rule added. The connection stays open.';
  }
  return Number.isInteger(err.code) ? `Sending to ${topic} failed (${hex(err.code)}): ${err.message}` : `Sending to ${topic} failed: ${err.message}`;
}

// ---- start ----

async function prefill() {
  const guess = `wss://${location.hostname || 'localhost'}:18885/`;
  let wss = guess;
  try {
    const answer = await fetch('/try/config.json', { cache: 'no-store', credentials: 'omit' });
    const config = answer.ok ? await answer.json() : null;
    if (typeof config?.wss === 'string' && config.wss.startsWith('wss://')) wss = config.wss;
  } catch {
    // the guess stays
  }
  if (!el.url.value) el.url.value = wss;
}

function onSubmit(form, action) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit(el.connection, () => live ?? connect());
onSubmit(el.receiving, subscribe);
onSubmit(el.sending, send);
el.disconnect.addEventListener('click', disconnect);
el.clear.addEventListener('click', () => el.log.replaceChildren());
el.message.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
addEventListener('pagehide', () => live?.client.end());
setState('disconnected', 'Not connected');
prefill();
