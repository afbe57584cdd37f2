// Node's own clients through a proxy: http, https and fetch read no proxy variable before Node 24.
//
// Owns: how connections of these three are made. Each goes through CONNECT to the proxy that the
// environment names, http: ones as well, so a request is the same with and without a proxy.
// Never touches: what NO_PROXY spares, the proxy itself, Unix sockets, agents and dispatchers that
// connect in their own way, and whatever the runtime sends through the proxy by itself.
//
// Loaded before the program (NODE_OPTIONS=--require) in every process and worker thread: what takes
// long to load, undici above all, is not loaded before it is needed.
'use strict';

const ONCE = Symbol.for('larder.shim');

/** The proxy for `https:` or `http:`, or nothing. Read each time: programs change their variables. */
function proxyOf(scheme) {
  const { env } = process;
  const said = scheme === 'https:'
    ? env.https_proxy || env.HTTPS_PROXY
    : env.http_proxy || env.HTTP_PROXY;
  if (!said) return undefined;
  let url;
  try {
    url = new URL(said);
  } catch {
    return undefined;
  }
  if (url.protocol !== 'http:') return undefined;
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return {
    host: bare(url.hostname),
    port: Number(url.port) || 80,
    authorization: credentials === ':' ? '' : `Basic ${Buffer.from(credentials).toString('base64')}`,
  };
}

/** A host without the brackets of an IPv6 address, without the dot of the root, in small letters. */
function bare(host) {
  return String(host).replace(/^\[|\]$/g, '').replace(/\.$/, '').toLowerCase();
}

/** Whether NO_PROXY spares the host: `name` and `.name` mean it and all below, `*` means all. */
function isSpared(host, port) {
  const list = process.env.no_proxy || process.env.NO_PROXY || '';
  return list.split(/[\s,]+/).some((entry) => entry !== '' && spares(entry, host, port));
}

function spares(entry, host, port) {
  if (entry === '*') return true;
  if (entry.includes('/')) return isWithin(entry, host);
  const numbered = /^(\[.*\]|[^:]*):(\d+)$/.exec(entry);
  if (numbered && Number(numbered[2]) !== port) return false;
  const name = bare(numbered ? numbered[1] : entry).replace(/^\*?\./, '');
  return name !== '' && (host === name || host.endsWith(`.${name}`));
}

/** Whether the host is an address of a network such as 10.0.0.0/8. */
function isWithin(network, host) {
  const net = require('net');
  const [address, length] = network.split('/');
  const family = net.isIP(host);
  if (family === 0 || family !== net.isIP(bare(address))) return false;
  const kind = family === 6 ? 'ipv6' : 'ipv4';
  try {
    const list = new net.BlockList();
    list.addSubnet(bare(address), Number(length), kind);
    return list.check(host, kind);
  } catch {
    return false;
  }
}

/** The proxy that a connection is to go through, or nothing. */
function way(scheme, host, port) {
  const proxy = proxyOf(scheme);
  if (!proxy || isSpared(bare(host), port)) return undefined;
  if (bare(host) === proxy.host && port === proxy.port) return undefined;
  return proxy;
}

/** Opens a tunnel; `done` is called once, with an error or an open socket. */
function tunnel(proxy, host, port, timeout, done) {
  const net = require('net');
  const socket = net.connect({ host: proxy.host, port: proxy.port });
  let head = Buffer.alloc(0);

  const end = (error) => {
    socket.removeListener('error', end);
    socket.removeListener('close', onClose);
    socket.removeListener('timeout', onTimeout);
    socket.removeListener('readable', onReadable);
    socket.setTimeout(0);
    if (!error) return done(null, socket);
    socket.on('error', () => {});
    socket.destroy();
    return done(error);
  };
  const fail = (code, what) => end(Object.assign(new Error(what), { code, syscall: 'connect' }));
  const onClose = () => fail('ECONNRESET', `the proxy closed the connection to ${host}:${port}`);
  const onTimeout = () => fail('ETIMEDOUT', `no connection to ${host}:${port} in ${timeout} ms`);
  const onReadable = () => {
    const piece = socket.read();
    if (piece === null) return undefined;
    head = Buffer.concat([head, piece]);
    const length = head.indexOf('\r\n\r\n') + 4;
    if (length < 4) {
      return head.length > 65536 ? fail('EPROTO', 'the proxy answers with an endless head') : undefined;
    }
    const status = /^HTTP\/1\.[01] (\d{3})/.exec(head.toString('latin1', 0, length));
    if (!status) return fail('EPROTO', 'the proxy does not answer with HTTP');
    if (status[1] !== '200') {
      const code = status[1] === '504' ? 'ETIMEDOUT' : 'ECONNREFUSED';
      return fail(code, `the proxy answered ${status[1]} to CONNECT ${host}:${port}`);
    }
    // What came behind the head is the origin's: it may speak first.
    if (head.length > length) socket.unshift(head.subarray(length));
    return end();
  };

  socket.once('error', end);
  socket.once('close', onClose);
  socket.on('readable', onReadable);
  if (timeout) socket.setTimeout(timeout, onTimeout);
  const authority = `${net.isIPv6(host) ? `[${host}]` : host}:${port}`;
  const authorization = proxy.authorization ? `Proxy-Authorization: ${proxy.authorization}\r\n` : '';
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${authorization}\r\n`);
}

/** Makes an agent's connections go through tunnels. They stay the agent's: it pools them. */
function teachAgent(Agent, scheme, finish) {
  const direct = Agent.prototype.createConnection;
  Agent.prototype.createConnection = function createConnection(...args) {
    const [options] = args;
    const done = args[args.length - 1];
    const isOwn = typeof options === 'object' && options !== null && typeof done === 'function';
    if (!isOwn || options.socketPath || options.path || options.socket) return direct.apply(this, args);
    // Node sends the connections of such an agent through the proxy by itself.
    if (this.options && this.options.proxyEnv) return direct.apply(this, args);
    const host = bare(options.host || options.hostname || 'localhost');
    const port = Number(options.port) || this.defaultPort;
    const proxy = way(scheme, host, port);
    if (!proxy) return direct.apply(this, args);
    tunnel(proxy, host, port, options.timeout, (error, socket) => {
      if (error) return done(error);
      try {
        return done(null, finish(this, direct, options, settle(socket, options)));
      } catch (thrown) {
        socket.destroy();
        return done(thrown);
      }
    });
    return undefined;
  };
}

/** What a connection is given that Node opens directly. */
function settle(socket, options) {
  if (options.noDelay) socket.setNoDelay(true);
  if (options.keepAlive) socket.setKeepAlive(true, options.keepAliveInitialDelay);
  return socket;
}

/** undici's way to connect: the dispatcher keeps its pool, only the way is another. */
function connector(options) {
  const { allowH2 } = options;
  const connect = options.connect ?? {};
  // undici's own bound, unless the program set one.
  const timeout = connect.timeout ?? options.connectTimeout ?? 10_000;
  return function connectThroughProxy({ hostname, protocol, port, servername, localAddress }, done) {
    const net = require('net');
    const secure = protocol === 'https:';
    const host = bare(hostname);
    const number = Number(port) || (secure ? 443 : 80);
    const proxy = connect.socketPath ? undefined : way(protocol, host, number);
    if (proxy) {
      tunnel(proxy, host, number, timeout, (error, socket) => {
        if (error) return done(error);
        return secure ? handshake(socket) : done(null, socket.setNoDelay(true));
      });
    } else {
      const there = connect.socketPath ? { path: connect.socketPath } : { host, port: number };
      const socket = net.connect({ localAddress, ...connect, ...there });
      once(socket, 'connect', () => (secure ? handshake(socket) : done(null, socket.setNoDelay(true))));
    }

    function handshake(socket) {
      const name = servername || connect.servername || (net.isIP(host) ? '' : host);
      const ALPNProtocols = allowH2 ? ['http/1.1', 'h2'] : ['http/1.1'];
      const tls = require('tls').connect({ ALPNProtocols, ...connect, servername: name, host, socket });
      once(tls, 'secureConnect', () => done(null, tls.setNoDelay(true)));
    }

    /** Waits for `event`, an error or the end of undici's patience. */
    function once(socket, event, reached) {
      const fail = (error) => {
        clearTimeout(timer);
        socket.removeListener(event, succeed);
        socket.removeListener('error', fail);
        socket.on('error', () => {});
        socket.destroy();
        done(error);
      };
      const succeed = () => {
        clearTimeout(timer);
        socket.removeListener('error', fail);
        reached();
      };
      const late = () => fail(Object.assign(new Error('Connect Timeout Error'), {
        name: 'ConnectTimeoutError',
        code: 'UND_ERR_CONNECT_TIMEOUT',
      }));
      const timer = timeout ? setTimeout(late, timeout) : undefined;
      socket.once(event, succeed);
      socket.once('error', fail);
    }
  };
}

/** The dispatcher that fetch uses, if it is one that connects directly, through the proxy. */
function teachDispatcher() {
  // Any of these loads undici, which then makes the dispatcher.
  void globalThis.Headers;
  const found = Object.getOwnPropertySymbols(globalThis)
    .filter((symbol) => /^undici\.globalDispatcher\./.test(symbol.description ?? ''));
  for (const symbol of found) {
    const dispatcher = globalThis[symbol];
    if (dispatcher?.constructor?.name !== 'Agent') continue;
    const hidden = Object.getOwnPropertySymbols(dispatcher)
      .find((property) => property.description === 'options');
    const options = (hidden && dispatcher[hidden]) ?? {};
    // A program that connects in its own way knows why.
    if (typeof options.connect === 'function') continue;
    const connect = connector(options);
    globalThis[symbol] = new dispatcher.constructor({ ...options, connect });
  }
}

function teachFetch() {
  const { fetch } = globalThis;
  if (typeof fetch !== 'function') return;
  let taught = false;
  const property = Object.getOwnPropertyDescriptor(globalThis, 'fetch');
  // Loading undici takes longer than most programs take to start: not before the first request.
  const value = function (...args) {
    if (!taught) {
      taught = true;
      try {
        teachDispatcher();
      } catch {
        // An undici that is built in another way: it connects as it did.
      }
    }
    return Reflect.apply(fetch, this, args);
  };
  for (const name of ['name', 'length']) {
    Object.defineProperty(value, name, { value: fetch[name], configurable: true });
  }
  Object.defineProperty(globalThis, 'fetch', { ...property, value });
}

if (!globalThis[ONCE] && (proxyOf('https:') || proxyOf('http:'))) {
  Object.defineProperty(globalThis, ONCE, { value: true });
  try {
    teachAgent(require('http').Agent, 'http:', (agent, direct, { timeout }, socket) =>
      (timeout ? socket.setTimeout(timeout) : socket));
    // Node's own function makes the TLS connection in the tunnel: it keeps sessions, too.
    teachAgent(require('https').Agent, 'https:', (agent, direct, options, socket) =>
      direct.call(agent, { ...options, socket }));
    teachFetch();
  } catch {
    // A Node that is built in another way: the program runs as it did.
  }
}
