// Node's http and http2 as origins of tests/suite/zoo: HTTP/1.1 in the clear, HTTP/2 or HTTP/1.1 over
// TLS. Arguments: the ports of both, the directory of bodies, certificate, key.

const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');
const path = require('path');
const zlib = require('zlib');

const [plain, tls, root, cert, key, alpn] = process.argv.slice(2);
const MODIFIED = 'Sun, 06 Nov 1994 08:49:37 GMT';
const IDLE = 300;
const REQUESTS = 7;

function answer(request, response) {
    const url = new URL(request.url, 'http://zoo');
    const [, kind, name] = url.pathname.split('/');
    const h2 = request.httpVersionMajor === 2;
    response.setHeader('Cache-Control', 'max-age=60');
    response.setHeader('X-Zoo', ['node one', 'node two']);
    response.setHeader('X-Protocol', `HTTP/${request.httpVersion}`);
    const answers = { sized, unsized, eof, trailers, status, gzip, br, early, lastempty, cut };
    (answers[kind] || missing)(request, response, name, h2);
}

function body(name) {
    return fs.readFileSync(path.join(root, path.basename(name)));
}

function missing(_request, response) {
    response.writeHead(404, { 'Content-Type': 'text/plain' });
    response.end('no such thing\n');
}

/** Says what the body is; true if the client has it already. */
function isUnchanged(request, response, name, type = 'application/octet-stream') {
    response.setHeader('Content-Type', type);
    response.setHeader('ETag', `"node-${name}"`);
    response.setHeader('Last-Modified', MODIFIED);
    const has = request.headers['if-none-match'];
    const since = has === undefined && request.headers['if-modified-since'] === MODIFIED;
    if (has !== `"node-${name}"` && !since) return false;
    response.writeHead(304);
    response.end();
    return true;
}

function sized(request, response, name) {
    response.setHeader('Accept-Ranges', 'bytes');
    if (isUnchanged(request, response, name)) return;
    const bytes = body(name);
    const wanted = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range || '');
    const fits = (request.headers['if-range'] || `"node-${name}"`) === `"node-${name}"`;
    if (wanted && fits && request.method === 'GET') {
        const [, from, to] = wanted;
        const first = from === '' ? Math.max(0, bytes.length - Number(to)) : Number(from);
        const last = from === '' || to === '' ? bytes.length - 1 : Math.min(Number(to), bytes.length - 1);
        if (first >= bytes.length) {
            response.writeHead(416, { 'Content-Range': `bytes */${bytes.length}`, 'Content-Length': 0 });
            response.end();
            return;
        }
        response.writeHead(206, {
            'Content-Range': `bytes ${first}-${last}/${bytes.length}`,
            'Content-Length': last - first + 1,
        });
        response.end(bytes.subarray(first, last + 1));
        return;
    }
    response.writeHead(200, { 'Content-Length': bytes.length });
    response.end(request.method === 'HEAD' ? undefined : bytes);
}

function inPieces(response, bytes) {
    for (let at = 0; at < bytes.length; at += 70000) response.write(bytes.subarray(at, at + 70000));
}

function unsized(request, response, name) {
    if (isUnchanged(request, response, name)) return;
    response.writeHead(200);
    if (request.method !== 'HEAD') {
        response.flushHeaders();
        inPieces(response, body(name));
    }
    response.end();
}

/** The connection ends with the body. */
function eof(request, response, name, h2) {
    if (h2) return missing(request, response);
    isUnchanged({ headers: {} }, response, name);
    response.shouldKeepAlive = false;
    response.removeHeader('Transfer-Encoding');
    response.useChunkedEncodingByDefault = false;
    response.writeHead(200);
    response.end(body(name));
}

function trailers(request, response, name) {
    isUnchanged({ headers: {} }, response, name);
    response.setHeader('Trailer', 'X-After');
    response.writeHead(200);
    response.write(body(name));
    response.addTrailers({ 'X-After': 'node' });
    response.end();
}

function status(request, response, code) {
    if (code === '204') {
        response.writeHead(204);
        response.end();
    } else if (code === '301') {
        const away = 'https://elsewhere.example.test/there?a=1&b=2';
        response.writeHead(301, { Location: away, 'Content-Type': 'text/plain' });
        response.end('it is elsewhere\n');
    } else if (code === '500') {
        response.writeHead(500, { 'Content-Type': 'text/plain' });
        response.end('node says no\n');
    } else {
        missing(request, response);
    }
}

function encoded(request, response, name, coding, encode) {
    const accepts = (request.headers['accept-encoding'] || '').includes(coding);
    const bytes = accepts ? encode(body(name)) : body(name);
    response.setHeader('Vary', 'Accept-Encoding');
    if (accepts) response.setHeader('Content-Encoding', coding);
    const variant = accepts ? `${coding}-${name}` : name;
    if (isUnchanged(request, response, variant, 'text/plain')) return;
    response.writeHead(200, { 'Content-Length': bytes.length });
    response.end(bytes);
}

function gzip(request, response, name) {
    encoded(request, response, name, 'gzip', zlib.gzipSync);
}

function br(request, response, name) {
    const fast = { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } };
    encoded(request, response, name, 'br', (bytes) => zlib.brotliCompressSync(bytes, fast));
}

function early(request, response, name) {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
    sized(request, response, name);
}

/** HTTP/2 with a length whose stream ends in a DATA frame of nothing. */
function lastempty(request, response, name, h2) {
    if (!h2) return missing(request, response);
    isUnchanged({ headers: {} }, response, name);
    const bytes = body(name);
    response.writeHead(200, { 'Content-Length': bytes.length });
    response.write(bytes, () => setTimeout(() => response.end(), 5));
}

/** Ends in the middle of a body of 16,384 bytes. */
function cut(request, response, name, h2) {
    response.setHeader('Content-Type', 'application/octet-stream');
    response.writeHead(200, name === 'unsized' ? {} : { 'Content-Length': 16384 });
    response.write(body('16384').subarray(0, 10000), () => setTimeout(() => {
        if (!h2) response.socket.destroy();
        else if (name === 'connection') response.stream.session.destroy();
        else response.stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
    }, 20));
}

function keptAlive(server) {
    server.keepAliveTimeout = IDLE;
    server.maxRequestsPerSocket = REQUESTS;
    return server;
}

keptAlive(http.createServer(answer)).listen(Number(plain), '127.0.0.1');
const pair = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
if (alpn === 'h2') {
    const server = http2.createSecureServer(pair, answer);
    server.on('session', (session) => session.setTimeout(IDLE, () => session.close()));
    server.on('sessionError', () => {});
    server.listen(Number(tls), '127.0.0.1');
} else {
    keptAlive(https.createServer(pair, answer)).listen(Number(tls), '127.0.0.1');
}
