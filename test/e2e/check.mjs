// What both programs share: bounded waits, one line per check, one clear line on failure.

export const WAIT_MS = 15_000; // the longest wait for one thing

let doing = 'starting';

export function step(what) {
  doing = what;
}

export function ok(what) {
  console.log(`ok: ${what}`);
}

// die ends the program with exit code 1 after whatever was asked for, such as closing a browser, had its time.
let cleanup = async () => {};

export function onExit(f) {
  cleanup = f;
}

export async function die(err) {
  console.error(`FAIL: ${doing}: ${err instanceof Error ? err.message : err}`);
  await Promise.race([cleanup().catch(() => {}), new Promise((done) => { setTimeout(done, WAIT_MS); })]);
  process.exit(1);
}

// run runs the program's checks within limit milliseconds and sets the exit code.
export async function run(main, limit) {
  process.on('unhandledRejection', die);
  process.on('uncaughtException', die);
  setTimeout(() => die(`not done after ${limit / 1000} s`), limit).unref();
  try {
    await main();
    await cleanup();
  } catch (err) {
    await die(err);
  }
  process.exit(0);
}

export function expect(condition, message) {
  if (!condition) throw new Error(message);
}

// same compares by JSON; of two long lists it tells where they part.
export function same(got, want, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g === w) return;
  if (Array.isArray(got) && Array.isArray(want) && g.length + w.length > 600) {
    const i = want.findIndex((x, at) => JSON.stringify(x) !== JSON.stringify(got[at]));
    const at = i < 0 ? want.length : i;
    throw new Error(`${what}: got ${got.length}, want ${want.length}; number ${at + 1} is ${cut(got[at])}, want ${cut(want[at])}`);
  }
  throw new Error(`${what}: got ${cut(got)}, want ${cut(want)}`);
}

function cut(value) {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length <= 600 ? text : `${text.slice(0, 600)}… (${text.length} characters)`;
}

// within gives up on a promise after WAIT_MS.
export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_MS / 1000} s`)), WAIT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// user finds a user of the credentials by its name before the @.
export function user(credentials, name) {
  const found = credentials.users.find((u) => u.username === `${name}@${credentials.organization}`);
  if (!found) throw new Error(`the credentials hold no user ${name}@${credentials.organization}`);
  return found;
}
