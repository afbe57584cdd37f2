// npm's undici as an ES module: asks for each URL and prints what came.
import { Agent, fetch, request } from 'undici';

for (const [index, url] of process.argv.slice(2).entries()) {
  if (index % 2 === 0) {
    const answer = await request(url, { dispatcher: index === 0 ? new Agent() : undefined });
    console.log('Cache-Status:', answer.headers['cache-status']);
    console.log(await answer.body.text());
  } else {
    const answer = await fetch(url);
    console.log('Cache-Status:', answer.headers.get('cache-status'));
    console.log(await answer.text());
  }
}
process.exit(0);
