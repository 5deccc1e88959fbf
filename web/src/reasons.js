// What a reason code or a failed connection means for the user, and what helps.

export function hex(code) {
  return `0x${code.toString(16).toUpperCase().padStart(2, '0')}`;
}

// A refused CONNECT (MQTT 5.0, 3.2.2.2).
const refusals = {
  0x81: 'the server could not read the packet',
  0x82: 'the server sees a protocol error',
  0x84: 'the server does not speak this version of MQTT',
  0x85: 'the server does not accept the client id',
  0x87: 'this user may not connect. Have an administrator look at the user: it may be disabled or limited',
  0x88: 'the server is unavailable. Try again in a moment',
  0x89: 'the server is busy. Try again in a moment',
  0x8A: 'this client is banned. Ask the operator',
  0x8C: 'the way of authenticating is not supported',
  0x95: 'the packet is too large',
  0x97: 'a limit of the organization is reached, such as the number of connections. Close other connections or raise the limit',
  0x9F: 'too many connections in a short time. Wait a moment',
};

export function explainRefusal(code, user) {
  if (code === 0x86) {
    const fix = user.includes('@')
      ? 'Check both; the user name ends with the organization (name@org_…). '
        + 'A password that was rotated, a disabled user and an expired token are refused the same way.'
      : 'The user name must end with the organization: name@org_…';
    return `User name or password is wrong (0x86). ${fix}`;
  }
  return `The server refuses the connection (${hex(code)}): ${refusals[code] ?? 'no more is known'}.`;
}

// A DISCONNECT from the server (MQTT 5.0, 3.14.2.1).
const goodbyes = {
  0x81: 'it could not read a packet',
  0x82: 'it sees a protocol error',
  0x87: 'this user is not allowed to be connected any more',
  0x89: 'it is busy. Connect again in a moment',
  0x8B: 'it is shutting down. Connect again in a moment',
  0x8D: 'it heard nothing from this page for too long; the computer may have slept. Connect again',
  0x8E: 'another client connected with the same client id',
  0x8F: 'the topic filter is invalid',
  0x90: 'the topic is invalid',
  0x93: 'too many messages at once are unacknowledged',
  0x94: 'a topic alias is invalid',
  0x95: 'a message is too large',
  0x96: 'messages come too fast',
  0x97: 'a limit of the organization is reached',
  0x98: 'an administrator ended it: the user was changed, disabled, or its sessions were ended. Check the credentials and connect again',
  0xA0: 'the credentials have expired. Get new ones and connect again',
};

export function explainClosed(goodbye, closed, err) {
  const code = goodbye?.reasonCode;
  if (code) {
    const said = goodbye.properties?.reasonString;
    return `The server closed the connection (${hex(code)}): ${goodbyes[code] ?? 'no more is known'}.${said ? ` It says: ${said}` : ''}`;
  }
  if (err) return `The connection ended: ${err.message}. Connect again.`;
  return `The connection was closed${socketReason(closed)}. The server may have restarted or the network failed. Connect again.`;
}

export function explainUnanswered(closed) {
  return `The server accepted the WebSocket but closed it without an answer to CONNECT${socketReason(closed)}. `
    + 'Check that the address is that of an MQTT server, and try again.';
}

// A browser does not tell a page why a WebSocket could not be opened, so all causes are named, the likeliest first.
export function explainUnreachable(url) {
  return {
    text: `Cannot open ${url.href}. Either the server's certificate is not trusted, or no server answers there. The browser tells a page nothing more.\n`
      + '1. Open the address below in a new tab: if the browser warns about the certificate, accept it there or, better, add the server\'s CA '
      + 'certificate to the certificates this computer trusts.\n'
      + '2. If that tab shows no answer at all, check host and port, that the server runs, and that no firewall blocks the port.\n'
      + '3. If it says that it is an MQTT server, all is well: connect again.',
    link: `https://${url.host}${url.pathname}`,
  };
}

function socketReason(closed) {
  if (!closed || closed.code === 1005 || closed.code === 1006 || closed.code === 1000) return '';
  return ` (WebSocket code ${closed.code}${closed.reason ? `: ${closed.reason}` : ''})`;
}
