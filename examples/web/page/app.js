// The page: gets a token from its own site, connects with it, and refreshes it in time while the connection stays.
import mqtt from './mqtt.js';

const ROOM = 'chat/lobby';
const SHOWN = 200; // messages; the oldest leaves
const EARLY_MS = 5000; // before a refresh is recommended: a page in the background is slow
const SOON_MS = 1000; // never asks for a token more often than this
const LATER_MS = 5000; // until the next try where one has failed

const el = Object.fromEntries(['status', 'token', 'log', 'sending', 'message', 'send', 'error'].map((id) => [id, document.getElementById(id)]));
let token; // {username, password, token_id, ...}
let client;
let refused = false; // the last try to connect: mqtt.js makes no other by itself
let timer;

class Refused extends Error {}

async function post(url, body) {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    credentials: url.startsWith('http') ? 'omit' : 'same-origin',
    cache: 'no-store',
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(said.error_description ?? said.error ?? `status ${answer.status}`);
  return said;
}

// keep takes a token over, for this window and its reloads, and plans its refresh. Only the server's times are compared, so this machine's clock may be wrong.
function keep(next) {
  token = { ...token, ...next };
  sessionStorage.setItem('token', JSON.stringify(token)); // a reload goes on with it: a visitor has a bounded number of tokens
  const early = Date.parse(token.expires_at) - Date.parse(token.refresh_recommended_at);
  const wait = Math.max(SOON_MS, token.expires_in * 1000 - early - EARLY_MS);
  plan(refresh, wait);
  el.token.textContent = `${token.username}, until ${new Date(token.expires_at).toLocaleTimeString()}`;
}

function plan(what, wait) {
  clearTimeout(timer);
  timer = setTimeout(() => what().catch(failed), wait);
}

function failed(err) {
  el.error.textContent = err.message;
  plan(client ? refresh : start, LATER_MS);
}

// refresh needs no key: who has the token may have its next one. The connection stays; mqtt.js takes the new password when
// it has to connect again.
async function refresh() {
  try {
    const answer = await post(`${token.api}/v2/tokens/refresh`, { token_id: token.token_id, current_token_password: token.password });
    keep({ ...answer, ...answer.mqtt_credentials });
  } catch (err) {
    if (!(err instanceof Refused)) throw err;
    keep(await post('token', {})); // it is over or was revoked: a computer that slept comes here
  }
  el.error.textContent = '';
  if (!client) return;
  client.options.username = token.username;
  client.options.password = token.password;
  if (refused) client.reconnect();
  refused = false;
  el.status.dataset.refreshes++;
}

async function start() {
  token ??= JSON.parse(sessionStorage.getItem('token'));
  await (token ? refresh() : post('token', {}).then(keep));
  client = mqtt.connect(token.mqtt, {
    protocolVersion: 5,
    clientId: `web-${crypto.randomUUID()}`,
    username: token.username,
    password: token.password,
    clean: true,
    reconnectPeriod: 1000,
    timerVariant: 'native', // the other one needs a worker from a blob: address, which the page's policy forbids
  });
  client.on('connect', () => {
    el.status.dataset.connects++;
    client.subscribe(ROOM, { qos: 1 }, (err) => (err ? show('error', err.message) : show('connected', 'Connected')));
  });
  client.on('message', receive);
  client.on('close', () => show('connecting', 'Connecting…'));
  client.on('disconnect', (packet) => { el.error.textContent = packet.properties?.reasonString ?? ''; });
  client.on('error', (err) => {
    el.error.textContent = err.message;
    if (!Number.isInteger(err.code)) return; // not the server's answer
    refused = true;
    plan(refresh, SOON_MS); // the token is not valid any more, or the server was busy
  });
}

function show(state, text) {
  el.status.dataset.state = state;
  el.status.textContent = text;
  el.send.disabled = state !== 'connected';
}

function receive(topic, payload) {
  let said;
  try {
    said = JSON.parse(payload.toString());
  } catch {
    said = { from: '?', text: payload.toString() };
  }
  const li = document.createElement('li');
  const from = document.createElement('span');
  from.className = 'from';
  from.textContent = String(said?.from ?? '?');
  li.append(from, String(said?.text ?? '')); // as text: nobody's message becomes part of the page
  el.log.append(li);
  while (el.log.childElementCount > SHOWN) el.log.firstElementChild.remove();
  el.log.scrollTop = el.log.scrollHeight;
}

el.sending.addEventListener('submit', (event) => {
  event.preventDefault();
  const text = el.message.value;
  const from = token.username.split('@')[0].slice(-4);
  client.publish(ROOM, JSON.stringify({ from, text }), { qos: 1 }, (err) => {
    el.error.textContent = err ? err.message : '';
    if (!err && el.message.value === text) el.message.value = '';
  });
});

start().catch(failed);
