// A browser for the programs that need one: Chromium, or what the environment variable CHROMIUM names.
import { X509Certificate, createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { chromium } from 'playwright-core';
import { WAIT_MS, onExit, within } from './check.mjs';

// publicKey is the SHA-256 of the public key of the certificate that a server shows, after it was verified with the CA.
function publicKey(address, ca) {
  const { hostname, port } = new URL(address);
  const host = hostname.replace(/^\[|\]$/g, '');
  const shown = new Promise((resolve, reject) => {
    const socket = tls.connect({ host, port: Number(port || 443), ca, servername: isIP(host) ? undefined : host }, () => {
      const { raw } = socket.getPeerCertificate();
      socket.end();
      resolve(createHash('sha256').update(new X509Certificate(raw).publicKey.export({ type: 'spki', format: 'der' })).digest('base64'));
    });
    socket.on('error', (err) => reject(new Error(`TLS with ${address}, verified with the given authority: ${err.message}`)));
  });
  return within(shown, `TLS handshake with ${address}`);
}

// start starts a browser that accepts the certificates of these https: and wss: addresses, verified with the PEM ca, beside
// what the system trusts, and no other.
export async function start(addresses, ca) {
  const keys = new Set(await Promise.all(addresses.map((address) => publicKey(address, ca))));
  const folder = await mkdtemp(join(tmpdir(), 'cloudsignal-browser-'));
  const remove = () => rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  onExit(remove);
  process.env.TMPDIR = folder; // for what the browser and its driver leave behind
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    headless: true,
    timeout: WAIT_MS,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', `--ignore-certificate-errors-spki-list=${[...keys].join(',')}`],
  });
  onExit(async () => {
    await context.close();
    await remove();
  });
  context.setDefaultTimeout(WAIT_MS);
  return context;
}

// watch collects everything a page must not do. It may ask these origins, and open WebSockets to this address.
export function watch(context, problems, origins, wssURL) {
  context.on('request', (r) => {
    const url = new URL(r.url());
    if (!origins.includes(url.origin)) problems.push(`request to ${url}`);
  });
  context.on('page', (page) => {
    page.on('websocket', (ws) => {
      if (new URL(ws.url()).href !== new URL(wssURL).href) problems.push(`WebSocket to ${ws.url()}`);
    });
    page.on('console', (m) => {
      if (m.type() === 'error' || m.type() === 'warning') problems.push(`console ${m.type()}: ${m.text()} (${m.location().url})`);
    });
    page.on('pageerror', (err) => problems.push(`uncaught error: ${err.message}`));
    page.on('requestfailed', (r) => problems.push(`failed request: ${r.url()}: ${r.failure()?.errorText}`));
  });
  return context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (e) => {
      console.error(`CSP violation: ${e.effectiveDirective} ${e.blockedURI}`);
    });
  });
}
