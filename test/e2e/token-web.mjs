// The example examples/web in Chromium: two visitors chat with temporary tokens, which are refreshed while their connections stay.
//   node token-web.mjs WEB_PROGRAM API_URL WSS_URL CA_FILE
// The environment holds CLOUDSIGNAL_KEY, a secret key. The server lets tokens of TTL_S seconds be made.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { start, watch } from './browser.mjs';
import { WAIT_MS, expect, ok, run, same, step, within } from './check.mjs';

const TTL_S = 8; // the page refreshes after some 2.2 s of it
const [program, apiURL, wssURL, caFile] = process.argv.slice(2);
const key = process.env.CLOUDSIGNAL_KEY;
if (!caFile || !key) {
  console.error('usage: CLOUDSIGNAL_KEY=sk_... node token-web.mjs WEB_PROGRAM API_URL WSS_URL CA_FILE');
  process.exit(1);
}
const ca = readFileSync(caFile);

// site starts the example and returns its address, which it prints.
function site() {
  const child = spawn(program, ['-listen', '127.0.0.1:0', '-api', apiURL, '-mqtt', wssURL, '-ca', caFile, '-ttl', `${TTL_S}s`], { stdio: ['ignore', 'pipe', 'inherit'] });
  process.on('exit', () => child.kill());
  return within(new Promise((resolve, reject) => {
    let said = '';
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`the example ended with ${code}`)));
    child.stdout.on('data', (b) => {
      said += b;
      const address = /http:\/\/[^ /\n]+/.exec(said);
      if (address && said.includes('\n')) resolve(address[0]);
    });
  }), 'line with the address of the example');
}

// api asks the API as the organization's back end would.
function api(method, path) {
  return within(new Promise((resolve, reject) => {
    const r = https.request(new URL(path, apiURL), { method, ca, headers: { authorization: `Bearer ${key}` } }, (answer) => {
      let text = '';
      answer.on('data', (b) => { text += b; });
      answer.on('end', () => resolve({ status: answer.statusCode, body: text ? JSON.parse(text) : null }));
    });
    r.on('error', reject);
    r.end();
  }), `answer to ${method} ${path}`);
}

async function until(page, what, f, arg) {
  try {
    await page.waitForFunction(f, arg);
  } catch (err) {
    throw new Error(`no ${what} within ${WAIT_MS / 1000} s (${err.message.split('\n')[0]}); the page says "${await page.textContent('#status')}", "${await page.textContent('#error')}"`);
  }
}

// open is a visitor of their own, with the page open and connected.
async function open(context, url) {
  await context.clearCookies();
  const page = await context.newPage();
  same((await page.goto(url)).status(), 200, `status of ${url}`);
  await connected(page);
  return page;
}

function connected(page) {
  return until(page, 'connection', () => document.getElementById('status').dataset.state === 'connected');
}

async function say(page, text) {
  await page.fill('#message', text);
  await page.click('#send');
}

function heard(page, text) {
  return until(page, `message "${text}"`, (t) => [...document.querySelectorAll('#log li')].some((li) => li.textContent.endsWith(t)), text);
}

function refreshed(page, n) {
  return until(page, `refresh number ${n}`, (want) => Number(document.getElementById('status').dataset.refreshes) >= want, n);
}

async function chat(a, b) {
  step('chat');
  const hostile = '<img src=x onerror="console.error(1)"> äöü 🎉';
  await say(a, hostile);
  await Promise.all([heard(a, hostile), heard(b, hostile)]);
  same(await b.$$eval('#log img', (all) => all.length), 0, 'elements made of received text');
  ok('two visitors chat, each with a token of their own');
}

async function lasts(a, b) {
  step('refresh');
  await Promise.all([refreshed(a, 4), refreshed(b, 4)]); // longer than one life in all
  await say(b, 'still here');
  await heard(a, 'still here');
  same(await a.getAttribute('#status', 'data-connects'), '1', 'connections of the first page');
  ok('tokens are refreshed in time, and the connections stay');
}

const userOf = async (page) => (await page.textContent('#token')).split('@')[0];

async function tokens(user) {
  const { status, body } = await api('GET', `/v2/tokens?user=${user}`);
  same(status, 200, 'status of the list of tokens');
  expect(body.data.length > 0, `no token of ${user} is listed`);
  return body.data;
}

async function reloaded(a) {
  step('reload');
  const user = await userOf(a);
  const before = (await tokens(user)).length;
  await a.reload();
  await connected(a);
  await say(a, 'after a reload');
  await heard(a, 'after a reload');
  same([await userOf(a), (await tokens(user)).length], [user, before], 'user name and number of tokens after a reload');
  ok('a reload goes on with its token');
}

async function revoked(a) {
  step('revoke');
  const user = await userOf(a);
  for (const t of (await tokens(user)).filter((one) => !one.revoked_at)) same((await api('DELETE', `/v2/tokens/${t.token_id}`)).status, 204, `status of revoking ${t.token_id}`);
  await until(a, 'connection after the revoke', () => document.getElementById('status').dataset.connects === '2');
  await connected(a);
  await say(a, 'back again');
  await heard(a, 'back again');
  same(await userOf(a), user, 'user name of the same visitor');
  ok('a revoked token ends its connection, and the page comes back with a new one');
}

await run(async () => {
  step('starting the example');
  const url = await site();
  step('starting the browser');
  const context = await start([apiURL, wssURL], ca);
  const problems = [];
  await watch(context, problems, [url, new URL(apiURL).origin], wssURL);
  step('opening the pages');
  const a = await open(context, url);
  const b = await open(context, url);
  await chat(a, b);
  await lasts(a, b);
  await reloaded(b);
  step('what the pages reported');
  same(problems, [], 'problems');
  ok('no console errors, no violations of the content security policy, no requests to elsewhere');
  await revoked(b); // the browser reports the refused refresh as an error of the page, which it is not
}, 120_000);
