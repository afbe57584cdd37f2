// got: asks for each URL and prints what came.
import got from 'got';

for (const url of process.argv.slice(2)) {
  const answer = await got(url, { retry: { limit: 0 } });
  console.log('Cache-Status:', answer.headers['cache-status']);
  console.log(answer.body);
}
