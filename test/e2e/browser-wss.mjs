// The page "Try CloudSignal" in Chromium, two tabs that talk to each other over WebSocket and TLS.
//   node browser-wss.mjs TRY_URL WSS_URL CREDENTIALS_FILE CA_FILE
// Rules in force: as in node-wss.mjs.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { start, watch } from './browser.mjs';
import { WAIT_MS, expect, ok, run, same, step, user } from './check.mjs';

const [tryURL, wssURL, credentialsFile, caFile] = process.argv.slice(2);
if (!caFile) {
  console.error('usage: node browser-wss.mjs TRY_URL WSS_URL CREDENTIALS_FILE CA_FILE');
  process.exit(1);
}
const ca = readFileSync(caFile);
const credentials = JSON.parse(readFileSync(credentialsFile, 'utf8'));
const agent = user(credentials, 'agent-01');
const dashboard = user(credentials, 'dashboard');
const CHAT = 'agents/agent-01/chat';

// Tab is the page as a person uses it: through its form.
class Tab {
  constructor(page) {
    this.page = page;
  }

  static async open(context) {
    const page = await context.newPage();
    const answer = await page.goto(tryURL);
    same(answer.status(), 200, `status of ${tryURL}`);
    const policy = answer.headers()['content-security-policy'] ?? '';
    expect(policy.includes("default-src 'none'"), `${tryURL} has the Content-Security-Policy "${policy}", want default-src 'none'`);
    const tab = new Tab(page);
    await tab.until('prefilled address', () => document.getElementById('url').value !== '');
    const prefilled = await page.inputValue('#url');
    expect(/^wss:\/\/[^/]+:\d+\//.test(prefilled), `the address is prefilled with "${prefilled}", want wss://HOST:PORT/`);
    return tab;
  }

  // until waits until the function, run in the page, returns a true value; what says what is awaited.
  async until(what, f, arg) {
    try {
      await this.page.waitForFunction(f, arg);
    } catch (err) {
      const error = await this.page.textContent('#error').catch(() => '');
      throw new Error(`no ${what} within ${WAIT_MS / 1000} s (${err.message.split('\n')[0]}); the page's error line: "${error}"`);
    }
  }

  // state waits until the connection is in that state; if the page shows an error instead, that is the failure.
  async state(want) {
    await this.until(`state ${want}`, (w) => document.getElementById('status').dataset.state === w
      || (w === 'connected' && document.getElementById('error').textContent !== ''), want);
    const [got, error] = await this.page.evaluate(() => [document.getElementById('status').dataset.state, document.getElementById('error').textContent]);
    expect(got === want, `the page is ${got}, want ${want}; its error line: "${error}"`);
  }

  async login(who) {
    await this.page.fill('#url', wssURL);
    await this.page.fill('#username', who.username);
    await this.page.fill('#password', who.password);
    await this.page.click('#connect');
  }

  async connect(who) {
    await this.login(who);
    await this.state('connected');
  }

  async subscribe(filter) {
    await this.page.fill('#filter', filter);
    await this.page.click('#subscribe');
  }

  async subscribed(filter) {
    await this.until(`subscription to ${filter}`,
      (f) => [...document.querySelectorAll('#subscriptions li')].some((li) => li.dataset.filter === f), filter);
  }

  async send(topic, text, qos) {
    await this.page.selectOption('#qos', String(qos));
    await this.page.fill('#topic', topic);
    await this.page.fill('#message', text);
    await this.page.click('#send');
  }

  // messages waits for n messages in the log and returns [topic, payload] of all.
  async messages(n) {
    await this.until(`message number ${n} in the log`, (want) => document.querySelectorAll('#log li').length >= want, n);
    return this.page.$$eval('#log li', (all) => all.map((li) => [li.dataset.topic, li.querySelector('.payload').textContent]));
  }

  // error waits for the error line and returns it.
  async error() {
    await this.until('error line', () => document.getElementById('error').textContent !== '');
    expect(await this.page.isVisible('#error'), 'the error line is not visible');
    return this.page.textContent('#error');
  }

  async noError() {
    await this.until('end of the error line', () => document.getElementById('error').textContent === '');
  }
}

async function chat(a, d) {
  step('connecting both pages');
  await d.connect(dashboard);
  await a.connect(agent);
  ok('two pages connected over WSS through the form');
  step('chat');
  await d.subscribe('agents/#');
  await d.subscribed('agents/#');
  const hostile = '<img src=x onerror="console.error(1)"><script>console.error(2)</script> äöü 🎉 \u202Eabc';
  const want = [];
  for (const [qos, text] of [[0, `at QoS 0, ${randomBytes(4).toString('hex')}`], [1, hostile], [2, 'at QoS 2']]) {
    await a.send(CHAT, text, qos);
    want.push([CHAT, text]);
    same(await d.messages(want.length), want, "messages in the dashboard's log");
  }
  await a.noError();
  same(await d.page.$$eval('#log img, #log script', (all) => all.length), 0, 'elements made of received text');
  ok(`messages at QoS 0, 1 and 2 to ${CHAT} appear in the other page, each once, as text`);
}

async function refusals(a, d) {
  step('refused subscription');
  await a.subscribe('commands/x');
  let text = await a.error();
  expect(text.includes('0x87') && text.includes('commands/x'), `the error line says "${text}", want 0x87 and the filter`);
  await a.state('connected');
  same(await a.page.$$eval('#subscriptions li', (all) => all.length), 0, 'subscriptions shown');
  const before = (await d.messages(0)).length;
  await a.send(CHAT, 'after the refused subscription', 1);
  same((await d.messages(before + 1)).at(-1), [CHAT, 'after the refused subscription'], 'message after the refused subscription');
  await a.noError();
  ok('a refused subscription shows an error, and the page stays connected');

  step('refused message');
  await a.send('commands/x', 'no', 1);
  text = await a.error();
  expect(text.includes('0x87') && text.includes('commands/x'), `the error line says "${text}", want 0x87 and the topic`);
  await a.state('connected');
  await a.send(CHAT, 'after the refused message', 1);
  same((await d.messages(before + 2)).at(-1), [CHAT, 'after the refused message'], 'message after the refused message');
  await a.noError();
  ok('a refused message shows an error, and the page stays connected');
}

async function again(a) {
  step('disconnect');
  await a.page.click('#disconnect');
  await a.state('disconnected');
  same(await a.page.textContent('#error'), '', 'error line after disconnecting');
  step('wrong password');
  await a.login({ ...agent, password: `${agent.password}x` });
  const text = await a.error();
  expect(text.includes('0x86'), `the error line says "${text}", want 0x86`);
  await a.state('disconnected');
  await a.connect(agent);
  same(await a.page.textContent('#error'), '', 'error line after connecting');
  ok('a wrong password shows 0x86, and the right one connects after it');
}

async function leavesNothing(a, d) {
  step('storage');
  for (const { page } of [a, d]) {
    const stored = await page.evaluate(async () => [localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length]);
    same(stored, [0, 0, '', 0], 'entries in localStorage, sessionStorage, cookies and IndexedDB');
  }
  step('width');
  await a.page.setViewportSize({ width: 360, height: 740 });
  const wide = await a.page.evaluate(() => document.documentElement.scrollWidth);
  expect(wide <= 360, `the page is ${wide} pixels wide in a window of 360`);
  ok('the pages store nothing, and fit into 360 pixels');
}

await run(async () => {
  step('starting the browser');
  const context = await start([tryURL, wssURL].filter((u) => /^(https|wss):/.test(u)), ca);
  const problems = [];
  await watch(context, problems, [new URL(tryURL).origin], wssURL);
  step('opening the pages');
  try {
    const d = await Tab.open(context);
    const a = await Tab.open(context);
    await chat(a, d);
    await refusals(a, d);
    await again(a);
    await leavesNothing(a, d);
  } catch (err) {
    if (problems.length > 0) err.message += `; the pages reported: ${problems.join('; ')}`;
    throw err;
  }
  step('what the pages reported');
  same(problems, [], 'problems');
  ok('no console errors, no violations of the content security policy, no requests to elsewhere');
}, 120_000);
