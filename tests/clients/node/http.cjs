// Node's http and https: asks for each URL and prints what came.
const http = require('http');
const https = require('https');

const get = (url) => new Promise((resolve, reject) => {
  const { get: ask } = url.startsWith('https:') ? https : http;
  ask(url, (answer) => {
    if (answer.statusCode !== 200) reject(new Error(`${url} answered ${answer.statusCode}`));
    let body = '';
    answer.setEncoding('utf8').on('data', (piece) => { body += piece; });
    answer.on('end', () => resolve({ status: answer.headers['cache-status'], body }));
  }).on('error', reject);
});

(async () => {
  for (const url of process.argv.slice(2)) {
    const { status, body } = await get(url);
    console.log('Cache-Status:', status);
    console.log(body);
  }
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
