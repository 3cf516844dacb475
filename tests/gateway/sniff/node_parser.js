// Reads one head a line, in hex, and answers each with one line of JSON: every host that Node's HTTP parser read in it.
// null: Node took no request from those bytes. One process for many heads; see test_http_parsers.py.
'use strict';
const http = require('http');
const readline = require('readline');
const { Duplex } = require('stream');

const SCHEME = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i;

let heard = null;
function take(request) {
  if (heard === null) {
    heard = [];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      if (request.rawHeaders[at].toLowerCase() === 'host') heard.push(request.rawHeaders[at + 1]);
    }
    if (request.method === 'CONNECT') heard.push(request.url);
    const absolute = SCHEME.exec(request.url);
    if (absolute) heard.push(absolute[1]);
  }
}

const server = http.createServer({ maxHeaderSize: 1 << 17, requireHostHeader: false });
server.on('request', (request) => take(request));
server.on('upgrade', (request) => take(request));
server.on('connect', (request) => take(request));
server.on('clientError', (_error, socket) => socket.destroy());

function connection(data) {
  const socket = new Duplex({ read() {}, write(_chunk, _encoding, done) { done(); } });
  socket.on('error', () => {});
  socket.setTimeout = socket.setNoDelay = socket.setKeepAlive = () => socket;
  server.emit('connection', socket);
  socket.push(data);
  return socket;
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    heard = null;
    const socket = connection(Buffer.from(line, 'hex'));
    await new Promise(setImmediate);
    process.stdout.write(JSON.stringify(heard) + '\n');
    socket.destroy();
  }
  process.exit(0);
})();
