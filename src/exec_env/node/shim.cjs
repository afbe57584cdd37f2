// Makes Node's own clients (http, https, fetch), undici and ws use the proxy variables, which Node reads from
// version 24 on, and browsers that a program starts accept larder's certificate.
//
// Owns: the connections of these clients. Each goes through CONNECT to the proxy of the environment,
// those for http: as well, so that requests are the same with and without a proxy.
// Never touches: hosts in NO_PROXY, the proxy itself, Unix sockets, agents and dispatchers with their own
// connect function, and requests that the runtime itself sends through the proxy.
//
// Loaded before the program (NODE_OPTIONS=--require) in every process and worker thread. Slow modules, undici
// above all, are loaded only when they are needed.
'use strict';

const ONCE = Symbol.for('larder.shim');

/** The proxy for `https:` or `http:`, or undefined. Reads the environment on each call: programs change it. */
function proxyOf(scheme) {
  const { env } = process;
  const proxyUrl = scheme === 'https:'
    ? env.https_proxy || env.HTTPS_PROXY
    : env.http_proxy || env.HTTP_PROXY;
  if (!proxyUrl) return undefined;
  let url;
  try {
    url = new URL(proxyUrl);
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

/** A host in lower case, without IPv6 brackets and trailing dot. */
function bare(host) {
  return String(host).replace(/^\[|\]$/g, '').replace(/\.$/, '').toLowerCase();
}

/** Whether NO_PROXY contains the host: `name` and `.name` match it and its subdomains, `*` matches all. */
function isBypassed(host, port) {
  const list = process.env.no_proxy || process.env.NO_PROXY || '';
  return list.split(/[\s,]+/).some((entry) => entry !== '' && matches(entry, host, port));
}

function matches(entry, host, port) {
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

/** The proxy for a connection, or undefined. */
function proxyFor(scheme, host, port) {
  const proxy = proxyOf(scheme);
  if (!proxy || isBypassed(bare(host), port)) return undefined;
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
    // Bytes behind the head come from the origin, which may send first.
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

/** Opens an agent's connections through tunnels. The agent still pools them. */
function patchAgent(Agent, scheme, finish) {
  const direct = Agent.prototype.createConnection;
  Agent.prototype.createConnection = function createConnection(...args) {
    const [options] = args;
    const done = args[args.length - 1];
    const isOwn = typeof options === 'object' && options !== null && typeof done === 'function';
    if (!isOwn || options.socketPath || options.path || options.socket) return direct.apply(this, args);
    // Node itself sends the connections of such an agent through the proxy.
    if (this.options && this.options.proxyEnv) return direct.apply(this, args);
    const host = bare(options.host || options.hostname || 'localhost');
    const port = Number(options.port) || this.defaultPort;
    const proxy = proxyFor(scheme, host, port);
    if (!proxy) return direct.apply(this, args);
    tunnel(proxy, host, port, options.timeout, (error, socket) => {
      if (error) return done(error);
      try {
        return done(null, finish(this, direct, options, setSocketOptions(socket, options)));
      } catch (thrown) {
        socket.destroy();
        return done(thrown);
      }
    });
    return undefined;
  };
}

/** Sets the socket options that Node sets on direct connections. */
function setSocketOptions(socket, options) {
  if (options.noDelay) socket.setNoDelay(true);
  if (options.keepAlive) socket.setKeepAlive(true, options.keepAliveInitialDelay);
  return socket;
}

/** A connect function for undici; the dispatcher keeps its pool. */
function connector(options) {
  const { allowH2 } = options;
  const connect = options.connect ?? {};
  // undici's default, unless the program set a timeout.
  const timeout = connect.timeout ?? options.connectTimeout ?? 10_000;
  return function connectThroughProxy({ hostname, protocol, port, servername, localAddress }, done) {
    const net = require('net');
    const secure = protocol === 'https:';
    const host = bare(hostname);
    const number = Number(port) || (secure ? 443 : 80);
    const proxy = connect.socketPath ? undefined : proxyFor(protocol, host, number);
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

    /** Waits for `event`, an error or undici's timeout. */
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

/** Sends the connections of fetch's dispatcher through the proxy, if it connects directly. */
function patchDispatcher() {
  const found = Object.getOwnPropertySymbols(globalThis)
    .filter((symbol) => /^undici\.globalDispatcher\./.test(symbol.description ?? ''));
  for (const symbol of found) {
    const dispatcher = globalThis[symbol];
    if (dispatcher?.constructor?.name !== 'Agent') continue;
    const hidden = Object.getOwnPropertySymbols(dispatcher)
      .find((property) => property.description === 'options');
    const options = (hidden && dispatcher[hidden]) ?? {};
    // The program has its own connect function: leave it.
    if (typeof options.connect === 'function') continue;
    const connect = connector(options);
    globalThis[symbol] = new dispatcher.constructor({ ...options, connect });
  }
}

/** The classes of undici that connect to an origin; its proxy agents connect in their own way. */
const UNDICI_CLASSES = ['Agent', 'Pool', 'BalancedPool', 'Client'];

/**
 * Sends the connections of npm's own undici through the proxy, as soon as it is loaded: discord.js and other
 * clients use its `request` and its agents without ever calling the global fetch.
 */
function patchUndici(undici) {
  for (const name of UNDICI_CLASSES) {
    const Direct = undici[name];
    if (typeof Direct !== 'function') continue;
    const at = name === 'Agent' ? 0 : 1;
    const Patched = class extends Direct {
      constructor(...args) {
        const options = args[at] ?? {};
        // The program has its own connect function, or connects to a Unix socket: leave it.
        if (typeof options.connect !== 'function' && !options.socketPath) {
          args[at] = { ...options, connect: connector(options) };
        }
        super(...args);
      }
    };
    Object.defineProperty(Patched, 'name', { value: name });
    try {
      undici[name] = Patched;
    } catch {
      // Not writable: its instances stay direct.
    }
  }
  patchDispatcher();
}

/** Calls `patch` with the exports of undici, once for each copy of it that the program loads. */
function patchModules() {
  const Module = require('module');
  const load = Module._load;
  const seen = new WeakSet();
  Module._load = function (...args) {
    const exports = Reflect.apply(load, this, args);
    const isUndici = typeof args[0] === 'string' && /(^|[\\/])undici([\\/]|$)/.test(args[0]);
    if (isUndici && typeof exports?.getGlobalDispatcher === 'function' && !seen.has(exports)) {
      seen.add(exports);
      try {
        patchUndici(exports);
      } catch {
        // An undici with other internals: its connections stay direct.
      }
    }
    return exports;
  };
}

/**
 * Gives requests of the package ws, which opens its own connections, to the agent, which opens tunnels. Requests
 * with an agent or a connect function of the program stay as they are.
 */
function patchWebSockets(module) {
  for (const name of ['request', 'get']) {
    const direct = module[name];
    module[name] = function (...args) {
      const options = args[0];
      const isWs = typeof options === 'object' && options !== null && !options.agent
        && /^(net|tls)Connect$/.test(options.createConnection?.name)
        && options.headers?.Upgrade === 'websocket';
      if (isWs && !options.socketPath) args[0] = { ...options, createConnection: undefined };
      return Reflect.apply(direct, this, args);
    };
  }
}

const BROWSER = /^(chromium|chromium-browser|google-chrome(-\w+)?|chrome|chrome-headless-shell|headless_shell|microsoft-edge)$/;

/** Makes browsers that Puppeteer and Playwright start, with a profile of their own, accept larder's certificate. */
function patchSpawn() {
  const flag = process.env.LARDER_CHROMIUM_FLAG;
  if (!flag) return;
  const { ChildProcess } = require('child_process');
  const { spawn } = ChildProcess.prototype;
  ChildProcess.prototype.spawn = function (options) {
    const { args } = options ?? {};
    const sets = (name) => args.some((argument) => String(argument).startsWith(name));
    if (Array.isArray(args) && BROWSER.test(String(options.file).split('/').pop())
      && sets('--user-data-dir') && !sets('--ignore-certificate-errors-spki-list')) {
      args.splice(1, 0, flag);
    }
    return Reflect.apply(spawn, this, [options]);
  };
}

function patchFetch() {
  const { fetch } = globalThis;
  if (typeof fetch !== 'function') return;
  let patched = false;
  const property = Object.getOwnPropertyDescriptor(globalThis, 'fetch');
  // undici loads slower than most programs start, so it is loaded at the first request.
  const value = function (...args) {
    if (!patched) {
      patched = true;
      try {
        // Access to this global loads Node's undici, which then creates the dispatcher.
        void globalThis.Headers;
        patchDispatcher();
      } catch {
        // An undici with other internals: its connections stay direct.
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
    patchAgent(require('http').Agent, 'http:', (agent, direct, { timeout }, socket) =>
      (timeout ? socket.setTimeout(timeout) : socket));
    // Node's own function makes the TLS connection in the tunnel, with its session cache.
    patchAgent(require('https').Agent, 'https:', (agent, direct, options, socket) =>
      direct.call(agent, { ...options, socket }));
    patchFetch();
    patchModules();
    patchWebSockets(require('http'));
    patchWebSockets(require('https'));
    patchSpawn();
  } catch {
    // A Node with other internals: its connections stay direct.
  }
}
