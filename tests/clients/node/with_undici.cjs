// npm's undici, before anything has used the global fetch: asks for each URL and prints what came. Every second
// request is made by a dispatcher of the program's own.
const { Agent, Client, Pool, fetch, request } = require('undici');

const ways = [
  (url) => request(url),
  (url) => request(url, { dispatcher: new Agent({ connect: { timeout: 5000 } }) }),
  (url) => new Pool(url.origin).request({ path: url.pathname, method: 'GET' }),
  (url) => new Client(url.origin).request({ path: url.pathname, method: 'GET' }),
];

async function main() {
  for (const [index, text] of process.argv.slice(2).entries()) {
    const answer = await ways[index % ways.length](new URL(text));
    console.log('Cache-Status:', answer.headers['cache-status']);
    console.log(await answer.body.text());
  }
  if (typeof fetch !== 'function') throw new Error('undici has lost its fetch');
  process.exit(0);
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
